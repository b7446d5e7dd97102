"""The waist: the four types that every step shares, and the error a person can act on.

They are imported when asked for: `medseg --help` needs the error alone, and the types bring numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.core.case import Case, Image
    from medseg.core.errors import UserError
    from medseg.core.geometry import Geometry
    from medseg.core.prompt import Prompt
    from medseg.core.segmentation import ClassInfo, Segmentation

__all__ = ["Case", "ClassInfo", "Geometry", "Image", "Prompt", "Segmentation", "UserError"]

_HOMES = {
    "Case": "case",
    "ClassInfo": "segmentation",
    "Geometry": "geometry",
    "Image": "case",
    "Prompt": "prompt",
    "Segmentation": "segmentation",
    "UserError": "errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
