"""K-means. MacQueen 1967, Berkeley Symposium 5(1), url:https://projecteuclid.org/euclid.bsmsp/1200512992.

Every voxel belongs to the nearest of K centres, every centre is the mean of its voxels; the two steps alternate until
nothing moves (Lloyd). Looked at are grey value or colour, and, where `place_weight` is above 0, where the voxel lies.
The clusters are named from dark to bright, the darkest is background.
Differs from the paper: MacQueen moves a centre with every sample that arrives, here all samples are assigned first;
centres are found on a sample of at most `sample` voxels and the best of several starts counts; colour is Lab.
Oracle: scikit-learn `KMeans`, and the exhaustive minimum of the squared distances for grey values in two clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.features import (
    by_brightness,
    channels,
    checked_count,
    cluster_names,
    places_mm,
    standardised,
)
from medseg.zoo.classical.otsu import intensity

NAME = "cluster-kmeans"


class KMeans:
    """K groups of like voxels."""

    dims = (2, 3)

    def classes_of(self, clusters: int = 3, **parameters: Any) -> Mapping[int, str]:
        return cluster_names(clusters)

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        clusters: int = 3,
        place_weight: float = 0.0,
        starts: int = 10,
        sample: int = 20000,
        seed: int = 0,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S), 0 the darkest of `clusters`.

        place_weight: what the whole width of the image counts, in standard deviations of the grey values. starts:
        runs from random centres. sample: voxels the centres are found on. A constant image is all background.
        """
        checked_count(clusters, image[0].size, "clusters", NAME)
        features = [standardised(channels(image))]
        if place_weight > 0:
            places = places_mm(image.shape[1:], spacing_mm)
            features.append(places * (place_weight / max(float(places.max()), 1e-9)))
        table = np.concatenate(features).reshape(-1, image[0].size).T
        labels = grouped(table, clusters, starts, sample, seed).reshape(image.shape[1:])
        return by_brightness(labels, intensity(image)).astype(np.uint8)


def grouped(
    table: npt.NDArray[np.float32], clusters: int, starts: int = 10, sample: int = 20000, seed: int = 0
) -> npt.NDArray[np.int32]:
    """Cluster (N,) of each row of (N, F); fewer clusters where there are fewer distinct rows."""
    from sklearn.cluster import KMeans as Lloyd

    table = np.ascontiguousarray(table)
    rows = (
        np.random.default_rng(seed).choice(len(table), sample, replace=False) if len(table) > sample else ...
    )
    part = table[rows]
    distinct = len(np.unique(part[:20000, 0]))
    if distinct < clusters:  # whole rows tell more apart, and take longer to sort
        distinct = len(np.unique(part[:20000], axis=0))
    with thread_pools().limit(limits=1):
        model = Lloyd(min(clusters, distinct), n_init=starts, random_state=seed).fit(part)
        labels: npt.NDArray[np.int32] = model.predict(table)
        return labels


@lru_cache(maxsize=1)
def thread_pools() -> Any:
    """The thread pools of the libraries that are loaded: looking for them takes longer than grouping a photograph."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
