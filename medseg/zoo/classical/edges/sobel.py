"""Sobel's operator. Sobel, Feldman 1968, in Duda, Hart 1973, Pattern Classification and Scene Analysis, ISBN:0471223611.

A difference along an axis, [-1 0 1], is averaged across the other axes by [1 2 1], so that noise counts less
and the nearest neighbours count most. One such difference an axis makes a gradient. Its length is the
strength of the edge.
Differs from the paper: a Gaussian of 1 mm goes before it unless `sigma_mm` is 0; the length is the root of
the mean, not the sum, of squares; differences are divided by the spacing in mm; n axes instead of two.
Oracle: scikit-image `sobel` (called for each axis), which it equals for cubic voxels of 1 mm.
"""

from __future__ import annotations

from collections.abc import Sequence

from medseg.zoo.classical.edges.closing import Strength
from medseg.zoo.classical.edges.detector import EdgeArguments, EdgeDetector, rms_gradient


class Sobel(EdgeDetector):
    """Edges by smoothed differences of weights 1, 2, 1."""

    name = "edge-sobel"

    def strength(self, grey: Strength, spacing_mm: Sequence[float], options: EdgeArguments) -> Strength:
        from skimage.filters import sobel

        return rms_gradient(sobel, grey, spacing_mm)
