"""What a person (or a simulation of one) points at."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError

BACKGROUND_SEED = 255
"""The value in `Prompt.mask` of what a person marked as background; 0 is unknown."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """Hints for a segmentation, in mm of the patient (RAS+) for volumes and in px (row, column) for photographs.

    points: (N, D) with `point_classes` (N,): 0 is background, 1 the first class of the journey (or the method), 2 the
        second ...
    boxes: (N, 2, D) lowest and highest corner with `box_classes` (N,); the highest corner is excluded. Boxes without
        classes are of class 1.
    scribbles: tuple of ((N, D) polyline, class).
    mask: integer array on the case's own grid, 0 unknown, 255 background seeds.
    text: what to segment, in words.
    source: how it came about, in words free of private facts; says so where it was simulated from the label.

    Raises UserError for arrays whose shapes do not belong together.
    """

    points: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    point_classes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    boxes: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2, 3)))
    box_classes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    scribbles: tuple[tuple[npt.NDArray[np.float64], int], ...] = ()
    mask: npt.NDArray[Any] | None = None
    text: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        points = np.asarray(self.points, dtype=np.float64)
        boxes = np.asarray(self.boxes, dtype=np.float64)
        classes = np.asarray(self.point_classes, dtype=np.int64)
        kinds = np.asarray(self.box_classes, dtype=np.int64)
        if len(boxes) and not len(kinds):
            kinds = np.ones(len(boxes), dtype=np.int64)
        if len(points) and (points.ndim != 2 or classes.shape != (len(points),)):
            raise UserError(f"points of shape {points.shape} with classes of shape {classes.shape}", "prompt")
        if len(boxes) and (boxes.ndim != 3 or boxes.shape[1] != 2 or kinds.shape != (len(boxes),)):
            raise UserError(f"boxes of shape {boxes.shape} with classes of shape {kinds.shape}", "prompt")
        for name, value in (
            ("points", points),
            ("boxes", boxes),
            ("point_classes", classes),
            ("box_classes", kinds),
        ):
            object.__setattr__(self, name, value)

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all was pointed at."""
        return not (
            len(self.points) or len(self.boxes) or self.scribbles or self.mask is not None or self.text
        )

    @property
    def classes(self) -> tuple[int, ...]:
        """The classes that points, boxes, scribbles and the mask name, without background."""
        found = {int(v) for v in (*self.point_classes, *self.box_classes)} | {c for _, c in self.scribbles}
        if self.mask is not None:
            found |= {int(v) for v in np.unique(self.mask)} - {BACKGROUND_SEED}
        return tuple(sorted(found - {0}))

    @property
    def counts(self) -> dict[str, int]:
        """How much was pointed at: number of points, boxes, scribbles, and marked voxels; no places."""
        marked = 0 if self.mask is None else int(np.count_nonzero(self.mask))
        found = {"points": len(self.points), "boxes": len(self.boxes), "scribbles": len(self.scribbles),
                 "voxels": marked}  # fmt: skip
        return {name: count for name, count in found.items() if count}

    def with_classes(self, table: dict[int, int]) -> Prompt:
        """The same places with other class numbers; background stays. KeyError for a class the table lacks."""
        table = {**table, 0: 0}
        mask = None
        if self.mask is not None:
            lookup = np.arange(256, dtype=np.uint8)
            for old, new in table.items():
                lookup[old] = new
            mask = lookup[self.mask]
        return replace(
            self,
            point_classes=np.array([table[int(c)] for c in self.point_classes], dtype=np.int64),
            box_classes=np.array([table[int(c)] for c in self.box_classes], dtype=np.int64),
            scribbles=tuple((line, table[c]) for line, c in self.scribbles),
            mask=mask,
        )


def joined(parts: list[Prompt]) -> Prompt:
    """Several prompts of one case as one. Raises UserError for two masks."""
    if len(parts) == 1:
        return parts[0]
    masks = [part.mask for part in parts if part.mask is not None]
    if len(masks) > 1:
        raise UserError("two masks of scribbles for one case", "prompt", "keep one of them")
    pointed = [part for part in parts if len(part.points)]
    boxed = [part for part in parts if len(part.boxes)]
    whole = Prompt(
        scribbles=tuple(line for part in parts for line in part.scribbles),
        mask=masks[0] if masks else None,
        text=" ".join(part.text for part in parts if part.text),
        source=", ".join(dict.fromkeys(part.source for part in parts if part.source)),
    )
    if pointed:
        whole = replace(
            whole,
            points=np.concatenate([part.points for part in pointed]),
            point_classes=np.concatenate([part.point_classes for part in pointed]),
        )
    if boxed:
        whole = replace(
            whole,
            boxes=np.concatenate([part.boxes for part in boxed]),
            box_classes=np.concatenate([part.box_classes for part in boxed]),
        )
    return whole
