"""What a person (or a simulation of one) points at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Prompt:
    """Hints for a segmentation, in mm of the patient for volumes and in px (row, column) for photographs.

    points: (N, D) with `point_classes` (N,), 0 meaning background.
    boxes: (N, 2, D) lowest and highest corner with `box_classes` (N,).
    scribbles: tuple of ((N, D) polyline, class).
    mask: integer array on the case's own grid, 0 unknown, 255 background seeds.
    text: what to segment, in words.
    """

    points: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))
    point_classes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    boxes: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2, 3)))
    box_classes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    scribbles: tuple[tuple[npt.NDArray[np.float64], int], ...] = ()
    mask: npt.NDArray[Any] | None = None
    text: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all was pointed at."""
        return not (
            len(self.points) or len(self.boxes) or self.scribbles or self.mask is not None or self.text
        )
