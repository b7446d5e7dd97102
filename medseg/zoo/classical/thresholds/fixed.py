"""Fixed threshold. Sahoo, Soltani, Wong 1988, CVGIP 41(2), doi:10.1016/0734-189X(88)90022-9.

Where grey values have a meaning of their own, as in CT, two bounds are a segmentation: a voxel belongs to the
object if low <= I <= high. Nothing is computed from the image, so that the same value means the same tissue
in every case. Bone is above about 200 HU, air below about -900 HU, fat between about -190 and -30 HU.
Differs from the paper: none; the paper is a survey that names the method.
Oracle: SimpleITK `BinaryThreshold`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.otsu import intensity


class FixedThreshold:
    """1 where the image lies between two values, both included."""

    dims = (2, 3)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S). low, high: bounds in the image's own unit (HU in CT); None: no bound."""
        where = "system threshold-fixed"
        if low is None and high is None:
            raise UserError(
                "neither `low` nor `high` is given",
                where,
                "set one in the image's unit, such as low: 200 (HU)",
            )
        lowest, highest = (-np.inf if low is None else low), (np.inf if high is None else high)
        if lowest > highest:
            raise UserError(f"low {low} is above high {high}", where, "exchange them")
        grey = intensity(image)
        return ((grey >= lowest) & (grey <= highest)).astype(np.uint8)
