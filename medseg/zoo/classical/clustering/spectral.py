"""Spectral clustering. Ng, Jordan, Weiss, NIPS 2001, url:https://papers.nips.cc/paper/2092.

Likenesses W_ij = exp(-|f_i - f_j|^2 / 2 s^2) between all pairs make a graph; the eigenvectors of the K smallest
eigenvalues of L = I - D^-1/2 W D^-1/2, rows scaled to length 1, put every connected group at one place, where K-means
finds it, even when the groups are not round. The full graph of voxels is too large, so its nodes are supervoxels.
Differs from the paper: nodes are SLIC supervoxels with mean colour and place; s is the median distance of all pairs
times `scale` (the paper searches s); clusters are named from dark to bright.
Oracle: scikit-learn `SpectralClustering`, and two rings that K-means cannot tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.clustering.kmeans import grouped
from medseg.zoo.classical.clustering.regions import region_features, slic
from medseg.zoo.classical.features import by_brightness, checked_count, cluster_names, is_constant
from medseg.zoo.classical.otsu import intensity

NAME = "cluster-spectral"


class Spectral:
    """K groups of supervoxels by the eigenvectors of their graph."""

    dims = (2, 3)

    def classes_of(self, clusters: int = 3, **parameters: Any) -> Mapping[int, str]:
        return cluster_names(clusters)

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        clusters: int = 3,
        nodes: int = 500,
        scale: float = 0.5,
        place_weight: float = 0.5,
        seed: int = 0,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S), 0 the darkest of `clusters`.

        nodes: supervoxels of the graph. scale: s in median distances. place_weight: what the image's width counts,
        in standard deviations of the grey values.
        """
        checked_count(clusters, image[0].size, "clusters", NAME)
        checked_count(nodes, nodes, "nodes", NAME, most=5000)
        regions = slic(image, spacing_mm, nodes)
        table = region_features(image, regions, spacing_mm, place_weight)
        if is_constant(image):
            return np.zeros(regions.shape, dtype=np.uint8)
        groups = spectral_groups(table, clusters, scale, seed)
        return by_brightness(groups[regions], intensity(image)).astype(np.uint8)


def spectral_groups(
    table: npt.NDArray[np.float64], clusters: int, scale: float = 0.5, seed: int = 0
) -> npt.NDArray[np.int64]:
    """Cluster (R,) of each row of (R, F). One cluster where all rows are alike."""
    from scipy import linalg
    from scipy.spatial.distance import pdist, squareform

    distance = pdist(table)
    if not len(distance) or float(distance.max()) < 1e-6 or clusters == 1:
        return np.zeros(len(table), dtype=np.int64)
    width = scale * float(np.median(distance)) or float(distance[distance > 0].min())
    likeness = squareform(np.exp(-0.5 * np.square(distance / width)))
    root = 1 / np.sqrt(np.maximum(likeness.sum(axis=1), 1e-30))
    count = min(clusters, len(table))
    laplacian = np.eye(len(table)) - root[:, None] * likeness * root[None, :]
    _, vectors = linalg.eigh(laplacian, subset_by_index=[0, count - 1])
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = vectors / np.maximum(length, 1e-12)
    return grouped(rows.astype(np.float32), count, seed=seed)
