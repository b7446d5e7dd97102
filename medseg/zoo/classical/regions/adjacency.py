"""Which regions touch, and the merging of those that are alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.zoo.classical.grey import Grey
from medseg.zoo.classical.regions.partition import Regions

Pairs = npt.NDArray[np.int64]


def touching_pairs(regions: Regions) -> Pairs:
    """Pairs (M, 2) of regions that share a face of a voxel, each once, the smaller number first."""
    count = int(regions.max()) + 1
    keys = []
    for axis in range(regions.ndim):
        lines = np.moveaxis(regions, axis, 0)
        differ = lines[:-1] != lines[1:]
        a, b = lines[:-1][differ].astype(np.int64), lines[1:][differ].astype(np.int64)
        keys.append(np.unique(np.minimum(a, b) * count + np.maximum(a, b)))
    key = np.unique(np.concatenate(keys))
    return np.stack([key // count, key % count], axis=1)


def merged(regions: Regions, grey: Grey, tolerance: float) -> Regions:
    """Regions after merging until no two that touch have means within `tolerance` of each other.

    In each round every region joins the one most like it among those it touches, if within the tolerance;
    then all means are taken anew (Boruvka's rounds: at most log2 of the number of regions while merging goes
    on everywhere).
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    flat = regions.ravel()
    sums, sizes = np.bincount(flat, weights=grey.ravel()), np.bincount(flat).astype(np.float64)
    pairs, final = touching_pairs(regions), np.arange(len(sums))
    while len(pairs):
        means = sums / sizes
        apart = np.abs(means[pairs[:, 0]] - means[pairs[:, 1]])
        alike = apart <= tolerance
        if not alike.any():
            break
        chosen = _nearest(pairs[alike], apart[alike], len(sums))
        graph = coo_array((np.ones(len(chosen)), (chosen[:, 0], chosen[:, 1])), shape=(len(sums), len(sums)))
        count, joined = connected_components(graph, directed=False)
        sums, sizes = (np.bincount(joined, weights=w, minlength=count) for w in (sums, sizes))
        final = joined[final]
        pairs = _renamed(pairs, joined, count)
    return final[regions].astype(np.int32)


def _nearest(pairs: Pairs, apart: Grey, count: int) -> Pairs:
    """For every region in the pairs, the pair with the partner nearest to it."""
    ends = np.concatenate([pairs[:, 0], pairs[:, 1]])
    order = np.lexsort((np.tile(np.arange(len(pairs)), 2), np.tile(apart, 2), ends))
    _, first = np.unique(ends[order], return_index=True)
    return pairs[order[first] % len(pairs)]


def _renamed(pairs: Pairs, names: npt.NDArray[Any], count: int) -> Pairs:
    """The pairs under new names, each once, without those that became one region."""
    a, b = names[pairs[:, 0]].astype(np.int64), names[pairs[:, 1]].astype(np.int64)
    key = np.unique((np.minimum(a, b) * count + np.maximum(a, b))[a != b])
    return np.stack([key // count, key % count], axis=1)
