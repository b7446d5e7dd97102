"""Localised active contours. Lankton, Tannenbaum 2008, IEEE Trans. Image Processing 17(11), doi:10.1109/TIP.2008.2004611.

Chan and Vese compare each voxel with the means of the whole inside and outside; here with the means of what lies inside and
outside within a window around it. Regions need no common grey value then, only a local step at their outline: an object
under uneven light is found where global means fail.
Differs from the paper: the window is a box; grey values run from 0 to 1; instead of a narrow band around a distance function, phi
is kept between -2 and 2 and smoothed a little each step. Weights a voxel (Hatamizadeh 2019) belong to networks.
Oracle: the window of the whole image gives Chan and Vese's means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.contours.acwe import Array, curvature, start_region
from medseg.zoo.classical.features import unit_range

NAME = "acm-localized"


class LocalizedChanVese:
    """A region with a local step in grey value at its outline, started from a prompt or Otsu's threshold."""

    dims = (2, 3)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        window_mm: float = 15.0,
        mu: float = 0.2,
        step: float = 5.0,
        iterations: int = 300,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        window_mm: width of the box that means are taken over (px for photographs). mu: weight of smoothness, in units
        of the mean squared contrast. step: of the descent. iterations: at most; it stops when less than one voxel in
        ten thousand changes in ten.
        """
        if window_mm <= 0:
            raise UserError(f"window_mm is {window_mm:g}", f"system {NAME}", "a width above 0")
        grey = unit_range(image).astype(np.float32)
        start = start_region(grey, prompt, spacing_mm, NAME)
        steps = np.asarray(spacing_mm, dtype=np.float32) / float(np.prod(spacing_mm)) ** (1 / grey.ndim)
        window = [max(1, round(window_mm / s)) for s in spacing_mm]
        if not start.any() or grey.min() == grey.max():
            return start.astype(np.uint8)
        return descended(grey, start, steps, window, (mu, step, iterations)).astype(np.uint8)


def descended(
    grey: Array,
    start: npt.NDArray[np.bool_],
    steps: npt.NDArray[np.float32],
    window: Sequence[int],
    settings: tuple[float, float, int],
) -> npt.NDArray[np.bool_]:
    """The region after the descent. window: width of the box in voxels an axis. settings: mu, step, iterations."""
    from scipy import ndimage

    mu, step, iterations = settings
    total = ndimage.uniform_filter(grey, window, mode="nearest")
    phi = np.where(start, np.float32(2), np.float32(-2))
    before = start
    for n in range(iterations):
        inside = phi > 0
        if not inside.any() or inside.all():
            break
        if n % 10 == 0:
            if n and np.count_nonzero(before != inside) < 1e-4 * inside.size:
                break
            before = inside
        if n % 3 == 0:  # the means move more slowly than the outline
            within, without = local_means(grey, inside, window, total)
            force = np.square(grey - without) - np.square(grey - within)
            force /= float(np.sqrt(np.square(force).mean())) + 1e-9
        delta = 1 / (np.pi * (1 + phi * phi))
        phi = phi + step * 0.2 * delta * (force + mu * curvature(phi, steps))
        phi = np.clip(ndimage.gaussian_filter(phi, 0.5, truncate=2), -2, 2)
    return phi > 0


def local_means(
    grey: Array, inside: npt.NDArray[np.bool_], window: Sequence[int], total: Array
) -> tuple[Array, Array]:
    """Means (*S) of the inside and of the outside within a box around every voxel; global ones where a side is absent.

    total: means of all voxels of the boxes.
    """
    from scipy import ndimage

    share = ndimage.uniform_filter(inside.astype(np.float32), window, mode="nearest")
    within = ndimage.uniform_filter(np.where(inside, grey, np.float32(0)), window, mode="nearest")
    least = 0.5 / float(np.prod(window))
    mean_in, mean_out = float(grey[inside].mean()), float(grey[~inside].mean())
    inner = np.where(share > least, within / np.maximum(share, least), mean_in)
    outer = np.where(1 - share > least, (total - within) / np.maximum(1 - share, least), mean_out)
    return inner.astype(np.float32), outer.astype(np.float32)
