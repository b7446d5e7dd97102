"""Several thresholds by Otsu's criterion. Liao, Chen, Chung 2001, J. Inf. Sci. Eng. 17(5), doi:10.6688/JISE.2001.17.5.1.

With more than two kinds of matter in an image, k - 1 thresholds part the histogram into k classes. Those are
taken for which the means lie farthest from the common mean, sum_k w_k (m_k - m)^2 largest. Tables of partial
sums make each combination of thresholds a few additions, so that all combinations can be tried.
Differs from the paper: none; images are binned from the smallest to the largest value.
Oracle: scikit-image `threshold_multiotsu` (called) and the exhaustive maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import Grey, checked, histogram, is_flat
from medseg.zoo.classical.otsu import intensity

WHERE = "system threshold-multi-otsu"


class MultiOtsu:
    """Levels of grey, the darkest 0."""

    dims = (2, 3)

    def classes_of(self, levels: int = 3, **parameters: Any) -> Mapping[int, str]:
        return {n: f"level {n}" for n in range(1, int(levels))}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        levels: int = 3,
        bins: int = 256,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S), 0 the darkest level. levels: 2 to 5, time grows with bins^(levels - 1).

        A constant image has one level; UserError where it has fewer grey values than levels.
        """
        checked("levels", levels, WHERE, least=2, most=5)
        grey = intensity(image)
        if is_flat(grey):
            return np.zeros(grey.shape, dtype=np.uint8)
        labels = np.zeros(grey.shape, dtype=np.uint8)
        for threshold in level_thresholds(grey, int(levels), bins):
            labels += grey > threshold
        return labels


def level_thresholds(grey: Grey, levels: int, bins: int = 256) -> Grey:
    """The levels - 1 thresholds, rising; a voxel at a threshold belongs to the darker level."""
    from skimage.filters import threshold_multiotsu

    counts, centres = histogram(grey, bins, WHERE)
    filled = int(np.count_nonzero(counts))
    if filled < levels:
        raise UserError(
            f"the image has {filled} grey values in {bins} bins, too few for {levels} levels",
            WHERE,
            f"set levels: {filled}, or more bins",
        )
    half_bin = (centres[1] - centres[0]) / 2
    return np.asarray(threshold_multiotsu(classes=levels, hist=(counts, centres))) + half_bin
