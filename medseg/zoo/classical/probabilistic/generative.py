"""Hidden Markov random field. Zhang, Brady, Smith 2001, IEEE TMI 20(1), doi:10.1109/42.906424 (HMRF-EM).

The image is generated: labels come from a Potts field, grey values from one Gaussian a label, p(I | L) p(L). EM alternates
between labels given the Gaussians (by ICM) and Gaussians given each voxel's probability of every label, which its
neighbours share in, so that tissues are told apart even where their histograms overlap.
Differs from the paper: no bias field (correct it before); starts from K-means; several channels have full covariances.
Oracle: scikit-learn `GaussianMixture` where beta is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.features import by_brightness, cluster_names
from medseg.zoo.classical.graphs.grid import Links, contrast_links, scaled
from medseg.zoo.classical.otsu import intensity
from medseg.zoo.classical.probabilistic.costs import class_costs, gaussian_costs
from medseg.zoo.classical.probabilistic.solvers import icm, softmax, votes

NAME = "pgm-generative"


class HiddenMarkovField:
    """Tissues from dark to bright by a Gaussian each and agreement of neighbours."""

    dims = (2, 3)

    def classes_of(self, classes: int = 3, **parameters: Any) -> Mapping[int, str]:
        return cluster_names(classes)

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        classes: int = 3,
        beta: float = 0.5,
        iterations: int = 10,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S), 0 the darkest. beta: cost of a disagreement. iterations: of EM, at most."""
        values, costs = class_costs(image, spacing_mm, None, classes, NAME)
        graph = scaled(contrast_links(values[:1], spacing_mm, sharpness=0.0), beta)
        labels = expectation_maximisation(values, costs, graph, iterations)
        return by_brightness(labels, intensity(image)).astype(np.uint8)


def expectation_maximisation(
    values: npt.NDArray[np.float32],
    costs: npt.NDArray[np.float64],
    graph: Sequence[Links],
    iterations: int,
) -> npt.NDArray[np.int64]:
    """Labels (*S) after EM from costs (K, *S); stops when fewer than one voxel in a thousand changes."""
    labels = icm(costs, graph, rounds=2)
    classes = np.arange(len(costs)).reshape(-1, *(1,) * labels.ndim)
    for _ in range(iterations):
        shares = softmax(votes(labels[None] == classes, graph) - costs)
        costs = gaussian_costs(values, shares)
        moved = icm(costs, graph, rounds=2, labels=labels)
        changed = np.count_nonzero(moved != labels)
        labels = moved
        if changed < 1e-3 * labels.size:
            break
    return labels
