"""Roberts' cross. Roberts 1963, Machine Perception of Three-Dimensional Solids, url:https://dspace.mit.edu/handle/1721.1/11589.

Four pixels in a square have two diagonals, and the differences along them are two parts of the gradient,
turned by 45 degrees: sqrt((I(x, y) - I(x+1, y+1))^2 + (I(x+1, y) - I(x, y+1))^2). No smaller operator
measures both. It is sharp, and it sees all noise.
Differs from the paper: a Gaussian of 1 mm goes before it unless `sigma_mm` is 0; works on grey values rather
than on their square roots; in 3D the crosses of the three coordinate planes are taken together; each
difference is divided by its diagonal in mm.
Oracle: scikit-image `roberts`, which it equals in 2D for pixels of 1 mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from medseg.zoo.classical.edges.closing import Strength
from medseg.zoo.classical.edges.detector import EdgeArguments, EdgeDetector


class Roberts(EdgeDetector):
    """Edges by the two diagonals of each square of four voxels."""

    name = "edge-roberts"

    def strength(self, grey: Strength, spacing_mm: Sequence[float], options: EdgeArguments) -> Strength:
        total = np.zeros(grey.shape)
        for one, other in combinations(range(grey.ndim), 2):
            width = np.pad(grey, [(0, int(axis in (one, other))) for axis in range(grey.ndim)], mode="edge")
            corners = {
                (a, b): _shifted(width, grey.shape, {one: a, other: b}) for a in (0, 1) for b in (0, 1)
            }
            cross = (corners[0, 0] - corners[1, 1]) ** 2 + (corners[1, 0] - corners[0, 1]) ** 2
            total += cross / (spacing_mm[one] ** 2 + spacing_mm[other] ** 2)
        return np.sqrt(total)


def _shifted(width: Strength, shape: Sequence[int], by: dict[int, int]) -> Strength:
    return width[tuple(slice(by.get(axis, 0), by.get(axis, 0) + n) for axis, n in enumerate(shape))]
