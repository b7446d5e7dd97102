"""Maximum correlation. Yen, Chang, Chang 1995, IEEE Trans. Image Processing 4(3), doi:10.1109/83.366472.

The correlation of a side of the histogram, -ln sum (p_i / P)^2, is an entropy that is cheap to compute. The
threshold is best where the sum over both sides is largest. It favours bright objects of few voxels.
Differs from the paper: two levels only, without the paper's cost for the number of classes.
Oracle: scikit-image `threshold_yen` (called) and the exhaustive maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import histogram, is_flat, side
from medseg.zoo.classical.otsu import intensity


class YenThreshold:
    """One global threshold of the largest correlation."""

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
        if is_flat(grey):
            return side(grey, 0.0)
        from skimage.filters import threshold_yen

        counts, centres = histogram(grey, bins, "system threshold-yen")
        half_bin = (centres[1] - centres[0]) / 2
        return side(grey, float(threshold_yen(hist=(counts, centres))) + half_bin, dark)
