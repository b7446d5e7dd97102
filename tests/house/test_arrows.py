"""Imports run one way, down the floors; also imports inside functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "medseg"
FLOORS = [
    {"core"},
    {"config_types"},
    {"config_planned"},
    {"config"},
    {"config_file"},
    {"config_plan", "config_schema"},
    {"jobs", "io"},
    {"data"},
    {"losses", "metrics", "track"},
    {"zoo"},
    {"model"},
    {"ingest"},
    {"predict"},
    {"train", "score", "check", "plan"},
    {"report", "view"},
    {"remember", "cross_validation"},
    {"two_stages"},
    {"mean_of_two"},
    {"pipeline"},
    {"bench"},
    {"gallery"},
    {"closing", "cli_door", "cli_ask"},
    {"cli_tools", "cli_model", "cli_predict", "cli_place"},
    {"cli_compare", "cli_bench", "cli_measure"},
    {"cli"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__main__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, room) of every `import medseg.x` and `from medseg.x import y`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [(node.lineno, name.split(".")[1]) for name in names if name.startswith("medseg.")]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_arrow_points_down(path: Path) -> None:
    here = room_of(path)
    if here in ("__init__", "shipped"):
        return
    assert here in FLOOR, f"the room {here} has no floor"
    for line, there in imported_rooms(ast.parse(path.read_text())):
        if there in ("__version__",):
            continue
        assert there == here or FLOOR.get(there, 99) < FLOOR[here], (
            f"line {line}: {here} may not import {there}"
        )


def test_an_arrow_upwards_is_seen_inside_functions() -> None:
    tree = ast.parse("def f():\n    from medseg.cli import main\n")
    assert imported_rooms(tree) == [(2, "cli")]


def test_relative_imports_are_not_used() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path.name} line {node.lineno}"


def test_no_room_imports_its_parts_when_it_is_imported() -> None:
    doors = {"predict": {"core", "predict"}, "score": {"core", "metrics"}}
    for path in PACKAGE.glob("*/__init__.py"):
        room = path.parent.name
        if room == "core":
            continue
        assert len(path.read_text().splitlines()) <= 20, path
        rooms = {there for _, there in imported_rooms(ast.parse(path.read_text()))}
        assert rooms <= doors.get(room, set()), f"{path}: a room's __init__ imports nothing of medseg"
