"""Conditional random field on the grid. Lafferty, McCallum, Pereira, ICML 2001, url:https://repository.upenn.edu/cis_papers/159.

The labels' distribution given the whole image is modelled directly, so that links may look at the image: neighbours who
differ pay w exp(-|I_i - I_j|^2 / 2 s^2) / distance, little across an edge and much on even ground. Unary costs are
-ln of class probabilities; a labelling of low energy is found by alpha-expansion.
Differs from the paper: it labels sequences with trained weights and exact inference; here the field is a grid (2D or 3D, mm)
with given weights, and probabilities come from clusters, or from the histograms of seeds where a prompt gives them.
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
from medseg.zoo.classical.probabilistic.solvers import softmax, solve

NAME = "crf-grid"


class GridCRF:
    """Classes from dark to bright (or those of the seeds), with borders where the image has edges."""

    dims = (2, 3)

    def classes_of(self, classes: int = 2, **parameters: Any) -> Mapping[int, str]:
        return cluster_names(classes)

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        classes: int = 2,
        weight: float = 3.0,
        sharpness: float = 1.0,
        solver: str = "expansion",
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        weight: w. sharpness: how fast links weaken with contrast. solver: expansion, icm or mean-field.
        """
        values, costs = class_costs(image, spacing_mm, prompt, classes, NAME)
        unary = -np.log(np.maximum(softmax(-costs), 1e-12))
        graph = scaled(contrast_links(values, spacing_mm, sharpness), weight)
        return solve(unary, graph, solver, NAME).astype(np.uint8)
