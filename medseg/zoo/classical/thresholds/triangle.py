"""Triangle. Zack, Rogers, Latt 1977, J. Histochem. Cytochem. 25(7), doi:10.1177/25.7.70454.

A large background gives one high peak, and the object only a long tail. A line is drawn from the peak to the
end of the tail. The threshold is the grey value where the histogram lies farthest below that line.
Differs from the paper: none; the tail is the longer side of the histogram, so bright and dark objects are
both served.
Oracle: scikit-image `threshold_triangle` (called).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import checked, is_flat, side
from medseg.zoo.classical.otsu import intensity


class TriangleThreshold:
    """One global threshold at the foot of the only peak."""

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
        from skimage.filters import threshold_triangle

        checked("bins", bins, "system threshold-triangle", least=2)
        return side(grey, float(threshold_triangle(grey, nbins=int(bins))), dark)
