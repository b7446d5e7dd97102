"""Zero crossings of the Laplacian. Gonzalez, Woods 2018, Digital Image Processing, ISBN:9780133356724.

Where the grey value climbs fastest its second derivative changes sign. The sum of the second differences
along all axes, [1 -2 1] each, is the same in every direction, so one operator finds edges of all directions.
The crossings are closed lines or surfaces by nature; the size of the change says which of them matter.
Differs from the paper: a Gaussian of 1 mm goes before it unless `sigma_mm` is 0; second differences are
divided by the squared spacing in mm.
Oracle: scikit-image `laplace` (size 3), which its negative equals for cubic voxels of 1 mm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg.zoo.classical.edges.closing import Strength
from medseg.zoo.classical.edges.detector import EdgeArguments, ZeroCrossings


class Laplacian(ZeroCrossings):
    """Edges where the Laplacian changes its sign."""

    name = "edge-laplacian"

    def strength(self, grey: Strength, spacing_mm: Sequence[float], options: EdgeArguments) -> Strength:
        return laplacian_mm(grey, spacing_mm)


def laplacian_mm(grey: Strength, spacing_mm: Sequence[float]) -> Strength:
    """Sum of the second derivatives (*S) in grey values a mm^2; the border repeats its voxels."""
    from scipy.ndimage import correlate1d

    total = np.zeros(grey.shape)
    for axis, s in enumerate(spacing_mm):
        total += correlate1d(grey, [1.0, -2.0, 1.0], axis=axis, mode="nearest") / s**2
    return total
