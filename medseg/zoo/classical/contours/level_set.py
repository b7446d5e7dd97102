"""Geodesic active contours. Caselles, Kimmel, Sapiro 1997, IJCV 22(1), doi:10.1023/A:1007979827043.

The contour is the zero level of a function on the grid, so that it can split and merge (Osher, Sethian 1988). It moves by
phi_t = |grad phi| (p g + c g k) + a grad g . grad phi with g = 1 / (1 + (|grad I_s| / K)^2) small at edges: it grows or shrinks
on even ground, stays smooth by its curvature k, and falls into the valleys of g.
Differs from the paper: K is the mean of the image's own gradients; a contour that starts from a box shrinks, one from
strokes or a mask grows, unless `propagation` says otherwise; sigma is in mm.
Oracle: SimpleITK's geodesic active contour filter, whose call it wraps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.morphology import distance_mm
from medseg.zoo.classical.otsu import intensity
from medseg.zoo.classical.seeds import start_of

NAME = "level-set"
MARGIN = 12
"""Voxels around the start of a contour that shrinks, into which smoothing and advection may move it."""


class LevelSet:
    """What a contour encloses that starts from the prompt's box or strokes and stops at edges. Needs a prompt."""

    dims = (2, 3)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        propagation: float | None = None,
        curvature: float = 0.5,
        advection: float = 1.0,
        sigma: float = 1.0,
        edge_scale: float = 1.0,
        iterations: int = 300,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        propagation: p, above 0 grows; by default -1 from a box and 1 from strokes. curvature: c. advection: a. sigma:
        of the smoothing, in mean spacings. edge_scale: K in
        units of the mean gradient. UserError without a start.
        """
        import SimpleITK as sitk

        start = start_of(prompt, image.shape[1:], spacing_mm, NAME)
        if min(start.shape) < 4:
            return start.astype(np.uint8)
        boxed = prompt is not None and len(prompt.boxes) > 0
        steps = np.asarray(spacing_mm) / float(np.prod(spacing_mm)) ** (1 / start.ndim)
        outward = (-1.0 if boxed else 1.0) if propagation is None else propagation
        speed = edge_stop(intensity(image), steps, sigma, edge_scale)
        # A contour that shrinks stays where it began, so that the rest of the image need not be looked at.
        place = around(start, MARGIN) if outward < 0 else (slice(None),) * start.ndim
        part = start[place]
        march = sitk.GeodesicActiveContourLevelSetImageFilter()
        march.SetPropagationScaling(outward)
        march.SetCurvatureScaling(curvature)
        march.SetAdvectionScaling(advection)
        march.SetMaximumRMSError(0.01)
        march.SetNumberOfIterations(iterations)
        march.SetNumberOfThreads(1)
        inside = distance_mm(part, steps) - distance_mm(~part, steps)
        level = march.Execute(as_itk(-inside, steps), as_itk(speed[place], steps))
        labels = np.zeros(start.shape, dtype=np.uint8)
        labels[place] = sitk.GetArrayFromImage(level) < 0
        return labels


def around(region: npt.NDArray[np.bool_], margin: int) -> tuple[slice, ...]:
    """The box around a region, `margin` voxels wider on every side where the image is."""
    found = []
    for axis, size in enumerate(region.shape):
        line = np.flatnonzero(region.any(axis=tuple(a for a in range(region.ndim) if a != axis)))
        found.append(slice(max(0, int(line[0]) - margin), min(size, int(line[-1]) + 1 + margin)))
    return tuple(found)


def edge_stop(
    grey: npt.NDArray[np.float64], steps: npt.NDArray[np.float64], sigma: float, edge_scale: float
) -> npt.NDArray[np.float64]:
    """g (*S) = 1 / (1 + (|grad I_s| / K)^2), K in units of the mean size of the gradients."""
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(grey, sigma / steps)
    slopes = np.gradient(smooth, *steps)
    size = np.sqrt(sum(np.square(s) for s in slopes))
    scale = edge_scale * float(size.mean())
    return 1 / (1 + np.square(size / scale)) if scale > 0 else np.ones_like(size)


def as_itk(array: npt.NDArray[Any], steps: npt.NDArray[np.float64]) -> Any:
    """A SimpleITK image of the array, first axis slowest, with its spacing."""
    import SimpleITK as sitk

    found = sitk.GetImageFromArray(array.astype(np.float32))
    found.SetSpacing([float(s) for s in reversed(steps)])
    return found
