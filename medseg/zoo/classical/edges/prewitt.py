"""Prewitt's operator. Prewitt 1970, Object Enhancement and Extraction, in Picture Processing and Psychopictorics, ISBN:0124515509.

A difference along an axis, [-1 0 1], is averaged across the other axes by [1 1 1]: the least-squares plane
through the neighbourhood has that slope. One such difference an axis makes a gradient. Its length is the
strength of the edge.
Differs from the paper: a Gaussian of 1 mm goes before it unless `sigma_mm` is 0; the length is the root of
the mean, not the sum, of squares; differences are divided by the spacing in mm; n axes instead of two.
Oracle: scikit-image `prewitt` (called for each axis), which it equals for cubic voxels of 1 mm.
"""

from __future__ import annotations

from collections.abc import Sequence

from medseg.zoo.classical.edges.closing import Strength
from medseg.zoo.classical.edges.detector import EdgeArguments, EdgeDetector, rms_gradient


class Prewitt(EdgeDetector):
    """Edges by smoothed differences of equal weights."""

    name = "edge-prewitt"

    def strength(self, grey: Strength, spacing_mm: Sequence[float], options: EdgeArguments) -> Strength:
        from skimage.filters import prewitt

        return rms_gradient(prewitt, grey, spacing_mm)
