"""Snakes. Kass, Witkin, Terzopoulos 1988, IJCV 1(4), doi:10.1007/BF00133570.

A closed curve v(s) moves until its energy int alpha |v'|^2 + beta |v''|^2 + E_image(v) is least: it wants to be short and
smooth and to lie where the image has edges. A step solves (A + gamma I) v = gamma v - grad E, with the band matrix A of
tension and stiffness, so that steps may be long.
Differs from the paper: the image is smoothed by `sigma` first and scaled to 0 ... 1; no springs or volcanoes drawn by hand.
A curve bounds an area in 2D; in 3D a surface mesh would be needed, so that volumes are for the level-set methods.
Oracle: scikit-image `active_contour`, whose call it wraps; a curve without image forces shrinks as a circle does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.features import unit_range
from medseg.zoo.classical.seeds import start_of

NAME = "snake"


class Snake:
    """The area inside a curve that starts from the prompt's box or region. Needs a prompt."""

    dims = (2,)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        alpha: float = 0.015,
        beta: float = 10.0,
        gamma: float = 0.001,
        edge_weight: float = 1.0,
        sigma: float = 2.0,
        iterations: int = 2500,
    ) -> npt.NDArray[np.uint8]:
        """image (C, H, W) -> labels (H, W).

        alpha: tension. beta: stiffness. gamma: step, the smaller the longer. edge_weight: pull of edges. sigma: in
        voxels. iterations: at most. UserError without a box, strokes or a mask to start from.
        """
        from scipy import ndimage
        from skimage.draw import polygon2mask
        from skimage.segmentation import active_contour

        start = start_of(prompt, image.shape[1:], spacing_mm, NAME)
        smooth = ndimage.gaussian_filter(unit_range(image), sigma)
        curve = active_contour(
            smooth,
            outline(start),
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            w_line=0,
            w_edge=edge_weight,
            max_num_iter=iterations,
            boundary_condition="periodic",
        )
        return polygon2mask(start.shape, curve).astype(np.uint8)


def outline(region: npt.NDArray[np.bool_], points: int = 200) -> npt.NDArray[np.float64]:
    """The longest outline of a region as `points` (row, column) at equal distances along it."""
    from skimage.measure import find_contours

    lines = find_contours(np.pad(region.astype(float), 1), 0.5)
    line = max(lines, key=len) - 1
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    wanted = np.linspace(0, length[-1], points, endpoint=False)
    curve = np.stack([np.interp(wanted, length, line[:, a]) for a in range(2)], axis=1)
    return np.clip(curve, 0, np.asarray(region.shape) - 1)
