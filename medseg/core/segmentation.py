"""A segmentation: labels on a grid, and what the labels mean."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry


@dataclass(frozen=True)
class Code:
    """A coded concept, e.g. Code("39607008", "SCT", "Lung structure")."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class ClassInfo:
    """One class: its name, the integer that stands for it, how it is shown and what it is called elsewhere."""

    name: str
    index: int
    colour: tuple[int, int, int]
    code: Code | None = None
    laterality: Literal["left", "right"] | None = None
    kind: Literal["stuff", "thing"] = "stuff"

    def as_json(self) -> dict[str, object]:
        code = None if self.code is None else vars(self.code)
        return {"name": self.name, "index": self.index, "colour": list(self.colour), "code": code,
                "laterality": self.laterality, "kind": self.kind}  # fmt: skip

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> ClassInfo:
        code = None if facts.get("code") is None else Code(**facts["code"])
        return cls(
            facts["name"],
            int(facts["index"]),
            tuple(facts["colour"]),
            code,
            facts.get("laterality"),
            facts.get("kind", "stuff"),
        )


def default_colour(position: int) -> tuple[int, int, int]:
    """A distinct colour for the n-th class: hues in steps of the golden angle."""
    red, green, blue = colorsys.hsv_to_rgb((0.58 + position * 0.381966) % 1.0, 0.62, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labels on a grid.

    labels: integer array (*S); 0 is background. With overlapping classes the painted view, later classes on top.
    geometry: the grid, `geometry.shape == labels.shape`.
    classes: the classes without background.
    regions: (R, *S) booleans in the order of `classes` where classes overlap, else None.
    instances: (*S) of ids, with `instance_table` rows {id, class, score, box, size}.
    probabilities: a function (low, high) -> float array (K, *box) for a box of the grid, or None.
    provenance: system, model hash, seconds, memory: whatever the maker wants to be remembered.
    """

    labels: npt.NDArray[Any]
    geometry: Geometry
    classes: tuple[ClassInfo, ...] = ()
    regions: npt.NDArray[np.bool_] | None = None
    instances: npt.NDArray[Any] | None = None
    instance_table: Sequence[Mapping[str, Any]] | None = None
    probabilities: Callable[[Sequence[int], Sequence[int]], npt.NDArray[np.float32]] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if tuple(self.labels.shape) != self.geometry.shape:
            raise UserError(f"labels have shape {tuple(self.labels.shape)}, their grid {self.geometry.shape}")
        if not np.issubdtype(self.labels.dtype, np.integer):
            raise UserError(f"labels are whole numbers, got an array of {self.labels.dtype}")
        if self.regions is not None and self.regions.shape != (len(self.classes), *self.geometry.shape):
            raise UserError(f"{len(self.classes)} regions on {self.geometry.shape}, got {self.regions.shape}")

    def mask(self, position: int) -> npt.NDArray[np.bool_]:
        """Where the class at `position` of `classes` lies: (*S) booleans."""
        if self.regions is not None:
            return self.regions[position]
        return self.labels == self.classes[position].index

    def volume_ml(self, position: int) -> float | None:
        """Volume of one class in millilitres; None for photographs, which have no volume."""
        voxel = self.geometry.voxel_volume_ml
        return None if voxel is None else float(np.count_nonzero(self.mask(position)) * voxel)


def paint(regions: npt.NDArray[np.bool_], classes: Sequence[ClassInfo]) -> npt.NDArray[np.uint8]:
    """Overlapping regions (R, *S) -> one label map, later classes over earlier ones."""
    labels = np.zeros(regions.shape[1:], dtype=np.uint8 if len(classes) < 255 else np.uint16)
    for region, info in zip(regions, classes):
        labels[region] = info.index
    return labels


def in_ml(volume: float) -> str:
    """A volume for people: three digits, and none of them behind an exponent: 9.07 ml, 3,250 ml."""
    return f"{volume:,.0f} ml" if volume >= 100 else f"{volume:.3g} ml"


def side_pairs(classes: Sequence[ClassInfo]) -> list[tuple[ClassInfo, ClassInfo]]:
    """(left, right) classes of one organ: laterality left and right, and names that differ in nothing else."""

    def bare(info: ClassInfo) -> str:
        words = info.name.lower().replace("_", " ").replace("-", " ").split()
        return " ".join(w for w in words if w not in ("left", "right", "l", "r"))

    right = {bare(info): info for info in classes if info.laterality == "right"}
    return [
        (info, right[bare(info)]) for info in classes if info.laterality == "left" and bare(info) in right
    ]
