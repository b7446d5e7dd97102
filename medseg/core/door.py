"""A room that is also a verb: `medseg.predict` is the room's module, and calling it is the room's door."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def make_callable(module: str, target: Callable[[], Callable[..., Any]]) -> None:
    """Lets the module be called; `target()` fetches the function when that happens, so importing stays cheap.

    Once a room is imported, Python binds the module's name in the package; a function of the same name beside it
    would be shadowed, so the module itself answers.
    """

    class Door(ModuleType):
        def __call__(self, *arguments: Any, **named: Any) -> Any:
            return target()(*arguments, **named)

    sys.modules[module].__class__ = Door
