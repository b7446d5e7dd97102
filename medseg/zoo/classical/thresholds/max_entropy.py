"""Maximum entropy. Kapur, Sahoo, Wong 1985, CVGIP 29(3), doi:10.1016/0734-189X(85)90125-2.

Either side of a threshold has a histogram of its own, with its own entropy H = -sum (p_i / P) ln(p_i / P).
The threshold is best where the two together tell most, H0(T) + H1(T) largest. It does well where the object
is small, because both sides count alike whatever their size.
Differs from the paper: bins from the smallest to the largest value stand for grey levels; Renyi's entropy
(Sahoo, Wilkins, Yeager 1997, doi:10.1016/S0031-3203(96)00065-9) is offered beside Shannon's.
Oracle: SimpleITK `MaximumEntropyThreshold`, `RenyiEntropyThreshold` (both called) and the exhaustive maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import chosen, is_flat, itk_threshold, side
from medseg.zoo.classical.otsu import intensity

FILTERS = {"shannon": "MaximumEntropy", "renyi": "RenyiEntropy"}


class MaxEntropyThreshold:
    """One global threshold of the largest sum of entropies."""

    dims = (2, 3)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        entropy: str = "shannon",
        bins: int = 256,
        dark: bool = False,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S). entropy: shannon or renyi. bins: of the histogram. dark: the object is darker."""
        where = "system threshold-max-entropy"
        tool = FILTERS[chosen("entropy", entropy, FILTERS, where)]
        grey = intensity(image)
        return side(grey, 0.0 if is_flat(grey) else itk_threshold(tool, grey, bins, where), dark)
