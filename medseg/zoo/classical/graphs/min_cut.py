"""Minimum cut. Wu, Leahy 1993, IEEE TPAMI 15(11), doi:10.1109/34.244673.

Neighbouring voxels are tied the stronger the more alike they are; the image falls apart where the ties cut through,
cut(A, B) = sum of w(u, v) over u in A and v in B, are weakest in total, which a maximum flow finds exactly. Without costs
of their own, voxels follow the shortest weak outline, so small pieces around the terminals are favoured.
Differs from the paper: it cuts all pairs of nodes recursively into K parts; here one cut parts two terminals: seeds of
object and background where a prompt gives them, else the brightest and the darkest `terminals` of the voxels.
Oracle: the exhaustive minimum over all cuts of a small grid, and the value of the maximum flow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.features import channels, standardised
from medseg.zoo.classical.graphs.grid import contrast_links, minimum_cut
from medseg.zoo.classical.otsu import intensity
from medseg.zoo.classical.seeds import BACKGROUND, seeds_of

NAME = "graph-min-cut"


class MinCut:
    """The two sides of the weakest cut: 1 holds the object's seeds or the brightest voxels."""

    dims = (2, 3)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        terminals: float = 0.05,
        sharpness: float = 4.0,
        diagonals: bool = False,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        terminals: share of the voxels that each terminal takes without a prompt. sharpness: how fast ties weaken with
        contrast. diagonals: ties over edges and corners too. A constant image is all background.
        """
        if not 0 < terminals < 0.5:
            raise UserError(f"terminals is {terminals:g}", f"system {NAME}", "a share between 0 and 0.5")
        grey = intensity(image)
        if prompt is None and grey.min() == grey.max():
            return np.zeros(grey.shape, dtype=np.uint8)
        cost = np.zeros(grey.shape)
        if prompt is not None:
            seeds = seeds_of(prompt, grey.shape, spacing_mm, NAME)
            cost[seeds == 1], cost[seeds == BACKGROUND] = -np.inf, np.inf
        else:
            low, high = np.quantile(grey, [terminals, 1 - terminals])
            cost[grey <= low] = np.inf
            cost[(grey >= high) & (grey > low)] = -np.inf
        graph = contrast_links(standardised(channels(image)), spacing_mm, sharpness, diagonals)
        return minimum_cut(cost, graph).astype(np.uint8)
