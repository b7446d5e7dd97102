"""Moment preserving. Tsai 1985, CVGIP 29(3), doi:10.1016/0734-189X(85)90133-1.

An image of two values is wanted that has the first three moments of the given one. Those moments fix the two
values and how many voxels have each. The threshold is the quantile that gives them that many.
Differs from the paper: two levels only; bins from the smallest to the largest value stand for grey levels.
Oracle: SimpleITK `MomentsThreshold` (called) and the solution of the three equations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import is_flat, itk_threshold, side
from medseg.zoo.classical.otsu import intensity


class MomentsThreshold:
    """One global threshold that keeps the first three moments."""

    dims = (2, 3)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        bins: int = 256,
        dark: bool = False,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S). bins: of the histogram. dark: the object is darker than its surroundings."""
        grey = intensity(image)
        return side(
            grey,
            0.0 if is_flat(grey) else itk_threshold("Moments", grey, bins, "system threshold-moments"),
            dark,
        )
