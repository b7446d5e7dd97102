"""Minimum cross entropy. Li, Tam 1998, Pattern Recognition Letters 19(8), doi:10.1016/S0167-8655(98)00057-9.

The image is replaced by the means of its two sides, and the cross entropy between image and replacement
measures what is lost. At the best threshold the loss is least, and there T = (m1 - m0) / (ln m1 - ln m0).
That equation is iterated from the mean.
Differs from the paper: works on voxels rather than a histogram; values are shifted to be positive.
Oracle: scikit-image `threshold_li` (called) and the exhaustive minimum of the cross entropy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import is_flat, side
from medseg.zoo.classical.otsu import intensity


class LiThreshold:
    """One global threshold of the least cross entropy."""

    dims = (2, 3)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        dark: bool = False,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S). dark: the object is darker than its surroundings."""
        grey = intensity(image)
        if is_flat(grey):
            return side(grey, 0.0)
        from skimage.filters import threshold_li

        return side(grey, float(threshold_li(grey)), dark)
