"""Morphological active contours. Marquez-Neila, Baumela, Alvarez 2014, IEEE TPAMI 36(1), doi:10.1109/TPAMI.2013.106.

The contour of Chan and Vese without a differential equation: a binary level set steps outwards or inwards by the sign of
|grad u| (l1 (I - c1)^2 - l2 (I - c2)^2), and its curvature flow is the operator SI o IS of dilations and erosions over line
segments (planes in 3D). Nothing can become unstable, and no distance function has to be kept up.
Differs from the paper: starts from Otsu's threshold or the region of a prompt; grey values run from 0 to 1; it ends early when
five steps change nothing. Voxels count as cubes: the operators know no spacing.
Oracle: scikit-image `morphological_chan_vese`, whose call it wraps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.contours.acwe import start_region
from medseg.zoo.classical.features import unit_range

NAME = "morph-acwe"


class MorphologicalChanVese:
    """The brighter of two regions of nearly constant grey value, or the one a prompt starts in."""

    dims = (2, 3)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        lambda_in: float = 1.0,
        lambda_out: float = 1.0,
        smoothing: int = 1,
        iterations: int = 35,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S). smoothing: runs of the curvature operator a step. iterations: at most."""
        from skimage.segmentation import morphological_chan_vese

        grey = unit_range(image)
        region = start_region(grey, prompt, spacing_mm, NAME).astype(np.int8)
        left = iterations if region.any() else 0
        while left > 0:
            moved = morphological_chan_vese(
                grey, min(5, left), region, smoothing=smoothing, lambda1=lambda_in, lambda2=lambda_out
            )
            left = 0 if np.array_equal(moved, region) else left - 5
            region = moved
        return region.astype(np.uint8)
