"""Iterative selection (isodata). Ridler, Calvard 1978, IEEE Trans. SMC 8(8), doi:10.1109/TSMC.1978.4310039.

The threshold starts at the mean of the image. It moves to the middle between the mean of what is above it and
the mean of what is not, T <- (m0(T) + m1(T)) / 2, and again, until it rests. That resting point is where
Otsu's criterion is stationary, found without looking at all thresholds.
Differs from the paper: starts from the mean of the image, not of its corners; works on a histogram, where the
iteration moves one way only, so its end is the first resting point on that side and is looked up rather than
iterated.
Oracle: scikit-image `threshold_isodata` (called for all resting points) and the literal iteration over
voxels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import Grey, histogram, is_flat, side
from medseg.zoo.classical.otsu import intensity


class IterativeThreshold:
    """One global threshold halfway between the means of its two sides."""

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
        return side(grey, 0.0 if is_flat(grey) else resting_threshold(grey, bins), dark)


def resting_threshold(grey: Grey, bins: int = 256) -> float:
    """The resting point that the iteration reaches from the mean, to within a bin."""
    from skimage.filters import threshold_isodata

    counts, centres = histogram(grey, bins, "system threshold-iterative")
    resting = np.sort(np.atleast_1d(threshold_isodata(hist=(counts, centres), return_all=True)))
    start = float(grey.mean())
    # The middle of both sides' means lies above the common mean if and only if fewer voxels do.
    upwards = 2 * np.count_nonzero(grey > start) < grey.size
    onward = resting[resting >= start] if upwards else resting[resting <= start][::-1]
    return float(onward[0] if onward.size else resting[np.argmin(np.abs(resting - start))])
