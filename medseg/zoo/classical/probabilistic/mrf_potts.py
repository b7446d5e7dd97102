"""Potts random field. Boykov, Veksler, Zabih 2001, IEEE TPAMI 23(11), doi:10.1109/34.969114.

A label is dear where it explains the grey value badly and where neighbours disagree:
E(L) = sum -ln p(I_i | L_i) + beta sum over neighbours [L_i != L_j] (Geman, Geman 1984). Alpha-expansion lowers E by
exact cuts, one label at a time, and ends within a factor of two of the optimum; with two labels it is the optimum.
Differs from the paper: p is a Gaussian a class from K-means, or the histogram of seeds where a prompt gives them; ICM and
mean field are offered beside expansion (swap moves are not); neighbours share a face, links count 1 / distance in mm.
Oracle: the exhaustive minimum on a small grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.features import cluster_names
from medseg.zoo.classical.graphs.grid import contrast_links, scaled
from medseg.zoo.classical.probabilistic.costs import class_costs
from medseg.zoo.classical.probabilistic.solvers import solve

NAME = "mrf-potts"


class PottsField:
    """Classes from dark to bright (or those of the seeds), smoothed by agreement of neighbours."""

    dims = (2, 3)

    def classes_of(self, classes: int = 2, **parameters: Any) -> Mapping[int, str]:
        return cluster_names(classes)

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        classes: int = 2,
        beta: float = 1.0,
        solver: str = "expansion",
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S). beta: cost of a disagreement. solver: expansion, icm or mean-field."""
        values, unary = class_costs(image, spacing_mm, prompt, classes, NAME)
        graph = scaled(contrast_links(values[:1], spacing_mm, sharpness=0.0), beta)
        return solve(unary, graph, solver, NAME).astype(np.uint8)
