"""Morphological active contours. Marquez-Neila, Baumela, Alvarez 2014, IEEE TPAMI 36(1), doi:10.1109/TPAMI.2013.106.

The contour of Chan and Vese without a differential equation: a binary level set steps outwards or inwards by the sign of
|grad u| (l1 (I - c1)^2 - l2 (I - c2)^2), and its curvature flow is the operator SI o IS of dilations and erosions over line
segments (planes in 3D). Nothing can become unstable, and no distance function has to be kept up.
Differs from the paper: starts from Otsu's threshold or the region of a prompt; grey values run from 0 to 1; it ends early when
five steps change nothing. Voxels count as cubes: the operators know no spacing.
Oracle: scikit-image `morphological_chan_vese`, whose result it gives, faster: planes are two lines, and only the outline moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.contours.acwe import start_region
from medseg.zoo.classical.contours.curvature_flow import Mask, smoothed
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
        grey = unit_range(image)
        region = start_region(grey, prompt, spacing_mm, NAME)
        before = region
        for n in range(iterations if region.any() else 0):
            region = smoothed(stepped(grey, region, lambda_in, lambda_out), smoothing, n * smoothing)
            if n % 5 == 4:
                if np.array_equal(region, before):
                    break
                before = region
        return region.astype(np.uint8)


def stepped(grey: npt.NDArray[np.float64], region: Mask, lambda_in: float, lambda_out: float) -> Mask:
    """The region after one step: what lies on the outline goes to the side whose mean it is nearer to."""
    inside = int(np.count_nonzero(region))
    bright = float(np.vdot(grey, region.astype(np.float64)))
    mean_in = bright / (inside + 1e-8)
    mean_out = (float(grey.sum()) - bright) / (region.size - inside + 1e-8)
    # l1 (I - c1)^2 - l2 (I - c2)^2 only counts on the outline, a thin part of the image.
    places = np.nonzero(outline(region))
    values = grey[places]
    pull = lambda_in * np.square(values - mean_in) - lambda_out * np.square(values - mean_out)
    moved = region.copy()
    moved[places] = np.where(pull < 0, True, np.where(pull > 0, False, region[places]))
    return moved


def outline(region: Mask) -> Mask:
    """Where the gradient of the region, by central differences and one-sided ones at the border, is not zero."""
    found = np.zeros_like(region)
    for axis in range(region.ndim):
        there, line = np.moveaxis(found, axis, 0), np.moveaxis(region, axis, 0)
        if len(line) > 1:
            there[1:-1] |= line[2:] != line[:-2]
            there[0] |= line[1] != line[0]
            there[-1] |= line[-1] != line[-2]
    return found
