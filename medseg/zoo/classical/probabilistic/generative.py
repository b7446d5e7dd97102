"""Hidden Markov random field. Zhang, Brady, Smith 2001, IEEE TMI 20(1), doi:10.1109/42.906424 (HMRF-EM).

The image is generated: labels come from a Potts field, grey values from one Gaussian a label, p(I | L) p(L). EM alternates
between labels given the Gaussians (by ICM) and Gaussians given each voxel's probability of every label, which its
neighbours share in, so that tissues are told apart even where their histograms overlap.
Differs from the paper: no bias field (correct it before); starts from K-means, or from the Gaussians of labelled cases where
it was fitted to some; several channels have full covariances.
Oracle: scikit-learn `GaussianMixture` where beta is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.case import Case
from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.features import by_brightness, channels, cluster_names, standardised
from medseg.zoo.classical.graphs.grid import Links, contrast_links, scaled
from medseg.zoo.classical.otsu import intensity
from medseg.zoo.classical.probabilistic.costs import class_costs, costs_under, gaussian_costs
from medseg.zoo.classical.probabilistic.solvers import icm, softmax, votes
from medseg.zoo.classical.probabilistic.voxel_classifier import ordered_labels, refuse_shapes

NAME = "pgm-generative"
Array = npt.NDArray[np.float64]


class HiddenMarkovField:
    """Tissues from dark to bright by a Gaussian each and agreement of neighbours; fitted, the classes of labelled cases."""

    dims = (2, 3)

    def __init__(self) -> None:
        self.gaussians: tuple[Array, Array] | None = None
        self.names: dict[int, str] = {}

    def classes_of(self, classes: int = 3, **parameters: Any) -> Mapping[int, str]:
        return self.names or cluster_names(classes)

    def fit(self, cases: Iterable[Case], **arguments: Any) -> None:
        """Mean and covariance of every class of labelled cases, background among them, on standardised values."""
        sums: dict[int, list[Any]] = {}
        names: dict[int, str] = {}
        for case in cases:
            if case.label_reader is None:
                continue
            values, truth = standardised(channels(case.image().array)), case.label()
            refuse_shapes(truth.labels.shape, values.shape[1:], case.id, NAME)
            order, known = ordered_labels(truth)
            names.update(known)
            table = values.reshape(len(values), -1).astype(np.float64)
            for number in range(len(known) + 1):
                part = table[:, order == number]
                old = sums.get(number, [0, 0.0, 0.0])
                sums[number] = [old[0] + part.shape[1], old[1] + part.sum(axis=1), old[2] + part @ part.T]
        if sum(count > 1 for count, _, _ in sums.values()) < 2:
            raise UserError(
                "there is no labelled case with two classes to learn from",
                f"system {NAME}",
                "give labelled cases",
            )
        self.gaussians, self.names = _gaussians_of([sums[n] for n in sorted(sums)]), names

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What was fitted; empty where nothing was."""
        return (
            {} if self.gaussians is None else {"means": self.gaussians[0], "covariances": self.gaussians[1]}
        )

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]], names: Mapping[int, str]) -> None:
        """Takes over what `state` gave. names: what the labels mean."""
        means, covariances = np.asarray(arrays["means"]), np.asarray(arrays["covariances"])
        if covariances.shape != (*means.shape, means.shape[1]):
            raise ValueError(f"means of {means.shape} with covariances of {covariances.shape}")
        self.gaussians, self.names = (means, covariances), dict(names)

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
        if self.gaussians is None:
            values, costs = class_costs(image, spacing_mm, None, classes, NAME)
        else:
            values = standardised(channels(image))
            if len(values) != self.gaussians[0].shape[1]:
                raise UserError(
                    f"it was fitted to {self.gaussians[0].shape[1]} channels, this image has {len(values)}",
                    f"system {NAME}",
                )
            costs = costs_under(values, *self.gaussians)
        graph = scaled(contrast_links(values[:1], spacing_mm, sharpness=0.0), beta)
        labels = expectation_maximisation(values, costs, graph, iterations)
        if self.gaussians is not None:
            return labels.astype(np.uint8)
        return by_brightness(labels, intensity(image)).astype(np.uint8)


def _gaussians_of(sums: Sequence[Sequence[Any]]) -> tuple[Array, Array]:
    """(means (K, C), covariances (K, C, C)) of counts, sums and sums of squares; a class never seen is like all."""
    whole = [sum(s[i] for s in sums) for i in range(3)]
    means, covariances = [], []
    for own in sums:
        count, total, square = own if own[0] > 1 else whole
        mean = total / count
        means.append(mean)
        covariances.append(square / count - np.outer(mean, mean) + 1e-4 * np.eye(len(mean)))
    return np.stack(means), np.stack(covariances)


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
