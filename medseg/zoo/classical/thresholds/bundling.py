"""Histogram bundling. Named, without a formula, in Minaee et al. 2021, IEEE TPAMI 44(7), arXiv:2001.05566.

Grey values heap up around the values of the kinds of matter in the image, and each heap is a bundle. The
histogram is smoothed, every peak that stands out is a bundle, and the valleys between peaks are their
borders. The number of classes comes out of the image, in the way of Ohlander, Price, Reddy 1978,
doi:10.1016/0146-664X(78)90060-6.
Differs from the paper: there is no formula to differ from; one pass over one histogram, without Ohlander's
recursion into each region.
Oracle: none kept; on mixtures of Gaussians the valleys are compared with where neighbouring densities cross.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import Grey, checked, histogram, is_flat
from medseg.zoo.classical.otsu import intensity

WHERE = "system histogram-bundling"


class HistogramBundling:
    """Bundles of grey values, the darkest 0."""

    dims = (2, 3)

    def classes_of(self, most: int = 8, **parameters: Any) -> Mapping[int, str]:
        return {n: f"bundle {n}" for n in range(1, int(most))}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        smoothing: float = 3.0,
        prominence: float = 0.01,
        most: int = 8,
        bins: int = 256,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S), 0 the darkest bundle.

        smoothing: standard deviation of the Gaussian over the histogram, in bins, 2 to 4 as a rule.
        prominence: how far a peak stands above its valleys, as a share of the highest. most: bundles at most,
        the most prominent ones.
        """
        checked("smoothing", smoothing, WHERE)
        checked("prominence", prominence, WHERE, most=1.0)
        checked("most", most, WHERE, least=1, most=255)
        grey = intensity(image)
        if is_flat(grey):
            return np.zeros(grey.shape, dtype=np.uint8)
        counts, centres = histogram(grey, bins, WHERE)
        return np.digitize(grey, valleys(counts, centres, smoothing, prominence, int(most))).astype(np.uint8)


def valleys(counts: Grey, centres: Grey, smoothing: float, prominence: float, most: int) -> Grey:
    """The grey values that part the bundles, rising; none where there is one peak."""
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import find_peaks

    smooth = gaussian_filter1d(counts, smoothing, mode="constant") if smoothing else counts
    # A peak in the first or last bin has a neighbour outside the range that is empty.
    peaks, facts = find_peaks(np.pad(smooth, 1), prominence=prominence * smooth.max())
    peaks = np.sort(peaks[np.argsort(-facts["prominences"], kind="stable")[:most]]) - 1
    between = [int(a + np.argmin(smooth[a:b])) for a, b in pairwise(peaks)]
    return centres[between]
