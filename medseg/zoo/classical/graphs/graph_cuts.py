"""Interactive graph cuts. Boykov, Jolly, ICCV 2001, doi:10.1109/ICCV.2001.937505.

A person marks some voxels as object and some as background. Among all segmentations that keep these marks, the one of
smallest E(A) = lambda R(A) + B(A) is found exactly by a minimum cut: t-links carry R = -ln Pr(I | object or background)
from the histograms of the seeds, n-links carry B = exp(-(I_p - I_q)^2 / 2 s^2) / dist(p, q) where labels differ.
Differs from the paper: s^2 is the mean square of neighbouring differences; histograms are blurred, and those of colours
are joint over three channels; distances are in mm.
Oracle: the exhaustive minimum of E over all labellings of a small grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.features import channels, standardised
from medseg.zoo.classical.graphs.grid import contrast_links, minimum_cut
from medseg.zoo.classical.graphs.seed_models import log_likelihood
from medseg.zoo.classical.seeds import BACKGROUND, seeds_of

NAME = "graph-cuts"


class GraphCuts:
    """The object around its seeds. Needs seeds of the object (class 1) and of the background (class 0)."""

    dims = (2, 3)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        region_weight: float = 0.03,
        sharpness: float = 1.0,
        diagonals: bool | None = None,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        region_weight: lambda. sharpness: how fast links weaken with contrast. diagonals: 8 or 26
        neighbours instead of 4 or 6; by default so in 2D only. UserError without seeds of both kinds.
        """
        seeds = seeds_of(prompt, image.shape[1:], spacing_mm, NAME)
        values = standardised(channels(image))
        cost = region_weight * (
            log_likelihood(values, seeds == BACKGROUND) - log_likelihood(values, seeds == 1)
        )
        cost[seeds == 1], cost[seeds == BACKGROUND] = -np.inf, np.inf
        with_diagonals = image.ndim == 3 if diagonals is None else diagonals
        return minimum_cut(cost, contrast_links(values, spacing_mm, sharpness, with_diagonals)).astype(
            np.uint8
        )
