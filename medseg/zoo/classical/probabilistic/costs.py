"""Unary costs -ln p(I | class) of a random field: from seeds where a person gave them, else from clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.clustering.kmeans import grouped
from medseg.zoo.classical.features import by_brightness, channels, checked_count, standardised
from medseg.zoo.classical.graphs.seed_models import log_likelihood
from medseg.zoo.classical.otsu import intensity
from medseg.zoo.classical.seeds import BACKGROUND, seeds_of

Array = npt.NDArray[np.float64]


def class_costs(
    image: npt.NDArray[Any], spacing_mm: Sequence[float], prompt: Prompt | None, classes: int, name: str
) -> tuple[npt.NDArray[np.float32], Array]:
    """(values (C, *S), costs (K, *S)): class 0 is the background or the darkest.

    With a prompt, costs are those of the seeds' histograms, which must name background and objects 1 to K - 1. Without,
    they are those of one Gaussian a cluster of K-means, from dark to bright.
    """
    checked_count(classes, image[0].size, "classes", name, most=32)
    values = standardised(channels(image))
    if prompt is not None:
        seeds = seeds_of(prompt, image.shape[1:], spacing_mm, name, classes - 1)
        kinds = [BACKGROUND, *range(1, classes)]
        costs = [-log_likelihood(values, seeds == k) if (seeds == k).any() else None for k in kinds]
        worst = max(float(c.max()) for c in costs if c is not None)
        return values, np.stack([np.full(seeds.shape, worst) if c is None else c for c in costs])
    table = values.reshape(len(values), -1).T
    labels = by_brightness(grouped(table, classes).reshape(image.shape[1:]), intensity(image))
    return values, gaussian_costs(values, np.stack([labels == k for k in range(classes)]))


def gaussian_costs(values: npt.NDArray[np.float32], weights: npt.NDArray[Any]) -> Array:
    """-ln N(I; mean, covariance) (K, *S) of the Gaussians that weights (K, *S) describe on values (C, *S).

    A class without weight gets the whole image's mean and covariance; variances are at least 1e-4.
    """
    table = values.reshape(len(values), -1).astype(np.float64)
    found = [moments(table, part) for part in weights.reshape(len(weights), -1)]
    means, covariances = np.stack([m for m, _ in found]), np.stack([c for _, c in found])
    return costs_under(values, means, covariances)


def moments(table: Array, part: npt.NDArray[Any]) -> tuple[Array, Array]:
    """(mean (C,), covariance (C, C)) of columns of a table (C, N) under weights (N,); of all where they weigh nothing."""
    share = part.astype(np.float64)
    total = float(share.sum())
    if total <= 1:
        share, total = np.ones(share.size), float(share.size)
    mean = table @ share / total
    centred = table - mean[:, None]
    return mean, (centred * share) @ centred.T / total + 1e-4 * np.eye(len(table))


def costs_under(values: npt.NDArray[np.float32], means: Array, covariances: Array) -> Array:
    """-ln N(I; mean, covariance) (K, *S) on values (C, *S) of Gaussians with means (K, C), covariances (K, C, C)."""
    table = values.reshape(len(values), -1).astype(np.float64)
    costs = np.empty((len(means), table.shape[1]))
    for cost, mean, covariance in zip(costs, means, covariances, strict=True):
        centred = table - mean[:, None]
        # With C = L L^T the squared distance is that of L^-1 (I - mean).
        scaled = np.linalg.inv(np.linalg.cholesky(covariance)) @ centred
        np.einsum("cn,cn->n", scaled, scaled, out=cost)
        cost += np.linalg.slogdet(2 * np.pi * covariance)[1]
        cost *= 0.5
    return costs.reshape(len(means), *values.shape[1:])
