"""Pages are compared with code: what is printed from code equals the committed page, every key and verb is named."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from medseg.cli import cli

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def printer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render_docs", ROOT / "docs" / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_printed_pages_are_current(printer: ModuleType) -> None:
    stale = [
        n
        for n, text in printer.pages().items()
        if not (ROOT / "docs" / n).exists() or (ROOT / "docs" / n).read_text() != text.rstrip("\n") + "\n"
    ]
    assert stale == [], "run `python docs/render.py`"


def test_the_readme_names_every_verb() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in cli.commands if not re.search(rf"\b{name}\b", text)] == []


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert broken == []


def test_every_shipped_pipeline_opens_with_its_promise_and_loads() -> None:
    from medseg.config_file import load_pipeline

    for path in (ROOT / "pipelines").glob("*.yaml"):
        head = path.read_text().splitlines()[:9]
        assert head[0].startswith("# "), path
        assert any("Needs:" in line for line in head), path
        assert any("medseg run pipelines/" in line for line in head), path
        assert load_pipeline(path).name == path.stem


def test_the_readme_tree_names_every_room() -> None:
    tree = (ROOT / "README.md").read_text()
    rooms = [p.name for p in (ROOT / "medseg").iterdir() if p.is_dir() and (p / "__init__.py").exists()]
    assert [room for room in rooms if f"{room}/" not in tree] == []
