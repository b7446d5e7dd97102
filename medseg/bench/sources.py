"""What code a system consists of: its file and whatever of the zoo that file imports, directly or not."""

from __future__ import annotations

import ast
import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from medseg.zoo.card import Card

PACKAGES = ("medseg.zoo.",)


def files_of(card: Card) -> tuple[Path, ...]:
    """The source files of a system, sorted by name; shared layers and encoders are among them."""
    found: dict[str, Path] = {}
    waiting = [card.at.partition(":")[0]]
    while waiting:
        module = waiting.pop()
        path = None if module in found else _source(module)
        if path is not None:
            found[module] = path
            waiting += [name for name in _imports(path) if name not in found]
    return tuple(found[name] for name in sorted(found))


def digest_of(card: Card) -> str:
    """Changes with any line of a system's code, not with where it lies, nor with what is only said of it."""
    digest = hashlib.sha256()
    for path in files_of(card):
        digest.update(path.name.encode() + b"\0" + code_of(path).encode())
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def code_of(path: Path) -> str:
    """The lines of a file that are carried out: without docstrings, comments on lines of their own and empty lines."""
    text = path.read_text(encoding="utf-8")
    said = {line for node in ast.walk(ast.parse(text)) for line in _docstring_lines(node)}
    lines = ((number, line.rstrip()) for number, line in enumerate(text.splitlines(), 1))
    return "\n".join(
        line for number, line in lines if number not in said and line and not line.lstrip().startswith("#")
    )


def _docstring_lines(node: ast.AST) -> range:
    """The lines of a string that stands alone: a docstring, or what is said of a constant below it."""
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        return range(0)
    is_text = isinstance(node.value.value, str)
    return range(node.lineno, (node.end_lineno or node.lineno) + 1) if is_text else range(0)


@lru_cache(maxsize=1024)
def _source(module: str) -> Path | None:
    """The file of a module; None for a name inside a module, and for compiled ones."""
    try:
        spec = find_spec(module)
    except (ModuleNotFoundError, ValueError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


@lru_cache(maxsize=1024)
def _imports(path: Path) -> tuple[str, ...]:
    """Modules of the zoo that a file imports; `from package import name` may mean the module `package.name`."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.startswith(PACKAGES))
