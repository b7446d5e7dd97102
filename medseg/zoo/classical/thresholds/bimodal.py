"""Valley between two modes. Prewitt, Mendelsohn 1966, Ann. NY Acad. Sci. 128, doi:10.1111/j.1749-6632.1965.tb11715.x.

An image of one kind of object on one kind of ground has a histogram with two peaks. It is smoothed by a
running mean of three bins until exactly two are left. The threshold is the lowest bin between them, or
halfway from peak to peak.
Differs from the paper: bins from the smallest to the largest value stand for the grey levels.
Oracle: scikit-image `threshold_minimum`, SimpleITK `IntermodesThreshold` (both called).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.grey import Grey, chosen, histogram, is_flat, itk_threshold, side
from medseg.zoo.classical.otsu import intensity

WHERE = "system threshold-bimodal"


class BimodalThreshold:
    """One global threshold between the two peaks of the histogram."""

    dims = (2, 3)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        rule: str = "valley",
        bins: int = 256,
        dark: bool = False,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        rule: "valley" (lowest bin between the peaks) or "middle" (of the peaks). bins: of the histogram.
        dark: the object is darker than its surroundings. UserError where smoothing never leaves two peaks.
        """
        chosen("rule", rule, ("valley", "middle"), WHERE)
        grey = intensity(image)
        if is_flat(grey):
            return side(grey, 0.0)
        find = valley if rule == "valley" else middle
        return side(grey, find(grey, bins), dark)


def valley(grey: Grey, bins: int) -> float:
    """The lowest bin between the two peaks."""
    from skimage.filters import threshold_minimum

    try:
        return float(threshold_minimum(hist=histogram(grey, bins, WHERE)))
    except RuntimeError as err:
        raise UserError(
            f"the histogram of {bins} bins does not have two peaks",
            WHERE,
            "try other bins, or a method that does not ask for two peaks, such as threshold-otsu",
        ) from err


def middle(grey: Grey, bins: int) -> float:
    """Halfway between the two peaks."""
    return itk_threshold("Intermodes", grey, bins, WHERE)
