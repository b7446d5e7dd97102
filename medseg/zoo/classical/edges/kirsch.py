"""Kirsch's compass operator. Kirsch 1971, Comput. Biomed. Res. 4(3), doi:10.1016/0010-4809(71)90034-6.

Eight kernels, one a direction, compare the three neighbours that face it with the five others: 5 for those,
-3 for these. The strongest of the eight answers is the strength of the edge, its direction that of the edge.
Being a difference of means, it is a first-order operator, although some surveys list it among the
second-order ones.
Differs from the paper: a Gaussian of 1 mm goes before it unless `sigma_mm` is 0; the answer is the difference
of the two means, the paper's divided by 15; in 3D 26 directions compare the neighbours nearest to each (9 for
faces and edges of the cube, 7 for corners) with the rest of the 26. The operator counts voxels, not mm.
Oracle: in 2D the eight kernels by `scipy.ndimage.convolve`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from medseg.zoo.classical.edges.closing import Strength
from medseg.zoo.classical.edges.detector import EdgeArguments, EdgeDetector


class Kirsch(EdgeDetector):
    """Edges by the best of 8 (3D: 26) directions."""

    name = "edge-kirsch"

    def strength(self, grey: Strength, spacing_mm: Sequence[float], options: EdgeArguments) -> Strength:
        return compass(grey)


def compass(grey: Strength) -> Strength:
    """Largest difference (*S) between the mean of the neighbours on one side and the mean of all others."""
    offsets = [o for o in product((-1, 0, 1), repeat=grey.ndim) if any(o)]
    wide = np.pad(grey, 1, mode="edge")
    near = {
        offset: wide[tuple(slice(1 + o, 1 + o + n) for o, n in zip(offset, grey.shape, strict=True))]
        for offset in offsets
    }
    whole = sum(near.values())
    best = np.full(grey.shape, -np.inf)
    for direction in offsets:
        facing = facing_offsets(direction, offsets)
        inside = sum(near[o] for o in facing)
        rest = len(offsets) - len(facing)
        np.maximum(best, inside / len(facing) - (whole - inside) / rest, out=best)
    return best


def facing_offsets(direction: tuple[int, ...], offsets: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The neighbours on the side of a direction: within 60 degrees of it."""
    unit = np.array(direction) / np.linalg.norm(direction)
    cosines = [float(np.dot(unit, o) / np.linalg.norm(o)) for o in offsets]
    return [o for o, cosine in zip(offsets, cosines, strict=True) if cosine > 0.49]
