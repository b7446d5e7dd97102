"""Minimal fuzziness. Huang, Wang 1995, Pattern Recognition 28(1), doi:10.1016/0031-3203(94)E0043-K.

Every grey value belongs to its side of a threshold by a degree, u(i) = 1 / (1 + |i - m_c| / C), that falls
with its distance from that side's mean. Shannon's function of these degrees measures how undecided the image
is. The threshold is best where the image is least undecided.
Differs from the paper: Shannon's measure only, not Yager's; bins from the smallest to the largest value stand
for grey levels.
Oracle: SimpleITK `HuangThreshold` (called) and the exhaustive minimum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import Grey, checked, is_flat, itk_threshold, side
from medseg.zoo.classical.otsu import intensity

WHERE = "system threshold-fuzzy"


class FuzzyThreshold:
    """One global threshold of the least fuzziness."""

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
        return side(grey, 0.0 if is_flat(grey) else least_fuzzy(grey, bins), dark)


def least_fuzzy(grey: Grey, bins: int) -> float:
    """The threshold, in the image's own unit. UserError for fewer than two bins."""
    checked("bins", bins, WHERE, least=2)
    low, high = float(grey.min()), float(grey.max())
    # ITK rounds the means of both sides to whole grey values, so it is given the numbers of the bins: on an image of
    # small fractions it would find a wrong threshold, or none.
    numbers = np.minimum((grey - low) * (bins / (high - low)), bins - 1).astype(np.uint16)
    return low + (itk_threshold("Huang", numbers, bins, WHERE) + 1) * (high - low) / bins
