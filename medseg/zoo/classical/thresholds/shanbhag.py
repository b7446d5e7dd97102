"""Entropy by information. Shanbhag 1994, CVGIP: Graphical Models 56(5), doi:10.1006/cgip.1994.1037.

Both sides of a threshold are fuzzy sets: the farther a grey value is from the threshold, the surer it belongs
to its side. The information in each side is measured. The threshold is best where the two sides hold the
same.
Differs from the paper: none but the bins, which run from the smallest to the largest value.
Oracle: SimpleITK `ShanbhagThreshold` (called).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import is_flat, itk_threshold, side
from medseg.zoo.classical.otsu import intensity


class ShanbhagThreshold:
    """One global threshold whose sides hold equal information."""

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
            0.0 if is_flat(grey) else itk_threshold("Shanbhag", grey, bins, "system threshold-shanbhag"),
            dark,
        )
