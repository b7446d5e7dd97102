"""Otsu's threshold. Otsu 1979, IEEE Trans. SMC 9(1), doi:10.1109/TSMC.1979.4310076.

Of all thresholds, the one that makes the two classes' means lie farthest apart, each weighted by its size:
sigma_B^2(t) = w0(t) w1(t) (mu0(t) - mu1(t))^2 is largest. It equals the one that makes the variance inside the
classes smallest, and needs one pass over the histogram.
Differs from the paper: real-valued images are binned first (256 bins from the smallest to the largest value);
colour is reduced to luminance, several channels otherwise to the first.
Oracle: scikit-image `threshold_otsu` and the exhaustive maximum over all thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt

LUMINANCE = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue (ITU-R BT.709)."""


class Otsu:
    """One global threshold an image; 1 where the image is above it (or below, with `dark`)."""

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
        """image (C, *S) -> labels (*S). bins: of the histogram. dark: the object is darker than its surroundings.

        A constant image has no two classes, so all of it is background.
        """
        grey = intensity(image)
        if grey.min() == grey.max():
            return np.zeros(grey.shape, dtype=np.uint8)
        above = grey > otsu_threshold(grey, bins)
        return (~above if dark else above).astype(np.uint8)


def intensity(image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """One number a voxel: luminance of three channels, the first channel otherwise."""
    if image.shape[0] == 3:
        return np.tensordot(LUMINANCE, image.astype(np.float64), axes=1)
    return image[0].astype(np.float64)


def otsu_threshold(grey: npt.NDArray[np.float64], bins: int = 256) -> float:
    """The threshold t of the largest between-class variance; class 1 is `grey > t`.

    t is the upper edge of the last bin of the lower class. Where several thresholds are equally good (an empty
    stretch of the histogram) the middle one is taken.
    """
    counts, edges = np.histogram(grey, bins=bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = grey.size - below
    moment = np.cumsum(counts * centres)
    mean_below = moment[:-1] / np.maximum(below, 1)
    mean_above = (moment[-1] - moment[:-1]) / np.maximum(above, 1)
    between = np.where((below > 0) & (above > 0), below * above * (mean_above - mean_below) ** 2, -1.0)
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(edges[1:-1][best[len(best) // 2]])
