"""Normalised cut. Shi, Malik 2000, IEEE TPAMI 22(8), doi:10.1109/34.868688.

A cut is judged by what it severs relative to all the ties of the parts, Ncut = cut / assoc(A, V) + cut / assoc(B, V), so
that cutting off a speck does not pay. Relaxed to real values, the best cut is the second eigenvector of
(D - W) y = lambda D y, split where Ncut is smallest; each part is cut again until no cut is below `threshold`.
Differs from the paper: nodes are SLIC supervoxels, tied where they touch, by colour; it joins pixels within a radius.
Pieces are named from dark to bright, `most` at most.
Oracle: the exhaustive minimum of Ncut on a small graph; two cliques joined by one tie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.clustering.regions import adjacency, at_most, region_features, sizes, slic
from medseg.zoo.classical.features import by_brightness, checked_count, cluster_names, is_constant
from medseg.zoo.classical.otsu import intensity

NAME = "graph-normalized-cut"
Table = npt.NDArray[np.float64]


class NormalizedCut:
    """Pieces of the graph of supervoxels, cut until no normalised cut is cheap."""

    dims = (2, 3)

    def classes_of(self, most: int = 8, **parameters: Any) -> Mapping[int, str]:
        return cluster_names(most)

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        threshold: float = 0.05,
        sigma: float = 0.3,
        nodes: int = 400,
        most: int = 8,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S), 0 the darkest piece.

        threshold: the largest Ncut that is still cut. sigma: contrast at which a tie is weak, in standard deviations
        of the image. nodes: supervoxels. most: pieces kept.
        """
        checked_count(most, max(most, 1), "most", NAME)
        checked_count(nodes, nodes, "nodes", NAME, most=5000)
        if is_constant(image):
            return np.zeros(image.shape[1:], dtype=np.uint8)
        regions = slic(image, spacing_mm, nodes)
        table = region_features(image, regions, spacing_mm, 0.0)
        pairs, faces = adjacency(regions)
        ties = np.zeros((len(table), len(table)))
        difference = np.square(table[pairs[:, 0]] - table[pairs[:, 1]]).sum(axis=1)
        ties[pairs[:, 0], pairs[:, 1]] = faces * np.exp(-difference / (2 * sigma**2))
        pieces = at_most(recursive_cut(ties + ties.T, threshold), table, sizes(regions), most)
        return by_brightness(pieces[regions], intensity(image)).astype(np.uint8)


def recursive_cut(ties: Table, threshold: float) -> npt.NDArray[np.int64]:
    """Piece (R,) of every node of the symmetric matrix W (R, R)."""
    pieces = np.zeros(len(ties), dtype=np.int64)
    waiting, found = [np.arange(len(ties))], 0
    while waiting:
        nodes = waiting.pop()
        side, value = two_way_cut(ties[np.ix_(nodes, nodes)])
        if value < threshold and side.any() and not side.all():
            waiting += [nodes[side], nodes[~side]]
        else:
            pieces[nodes] = found
            found += 1
    return pieces


def two_way_cut(ties: Table, places: int = 20) -> tuple[npt.NDArray[np.bool_], float]:
    """(side, Ncut): the split of an eigenvector that has the smallest Ncut, of `places` tried.

    Where the graph is in parts, eigenvectors of the value 0 mix, so that the first four are tried, not the second alone.
    """
    from scipy import linalg

    if len(ties) < 2:
        return np.zeros(len(ties), dtype=bool), np.inf
    degree = np.maximum(ties.sum(axis=1), 1e-12)
    root = 1 / np.sqrt(degree)
    symmetric = np.eye(len(ties)) - root[:, None] * ties * root[None, :]
    vectors = root[:, None] * linalg.eigh(symmetric, subset_by_index=[0, min(3, len(ties) - 1)])[1]
    sides = np.concatenate([splits(vector, places) for vector in vectors.T])
    values = [normalised_value(ties, degree, side) for side in sides]
    best = int(np.argmin(values))
    return sides[best], values[best]


def splits(vector: npt.NDArray[np.float64], places: int) -> npt.NDArray[np.bool_]:
    """Sides (P, R) of a vector (R,) cut at quantiles and at 0."""
    tries = np.quantile(vector, np.linspace(0, 1, places + 2)[1:-1], method="lower")
    return vector[None, :] > np.unique(np.append(tries, 0.0))[:, None]


def normalised_value(ties: Table, degree: npt.NDArray[np.float64], side: npt.NDArray[np.bool_]) -> float:
    """Ncut of one split; infinite where a side is empty."""
    if side.all() or not side.any():
        return np.inf
    severed = float(ties[np.ix_(side, ~side)].sum())
    return severed / float(degree[side].sum()) + severed / float(degree[~side].sum())
