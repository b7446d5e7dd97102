"""The graph of neighbouring voxels: links weighted by contrast and distance, and its exact minimum cut.

Energies are E(x) = sum_v d_v x_v + sum_(u,v) w_uv |x_u - x_v| over x in {0, 1}, whose minimum is a cut (Ford and
Fulkerson: its value is the largest flow). SciPy computes the flow; before, voxels whose own cost outweighs all their
links are decided, which changes nothing and leaves the flow a band around the outline.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
LARGEST_FLOW = 2**30
FEW = 0.02
"""Up to this share of all voxels it is quicker to look each up than to go through the whole grid."""


class Links(NamedTuple):
    """All links in one direction: two views of the grid, shifted against each other, and a weight for each pair."""

    one: tuple[slice, ...]
    other: tuple[slice, ...]
    weight: Array
    length: float


def links(shape: Sequence[int], spacing_mm: Sequence[float], diagonals: bool = False) -> list[Links]:
    """Links of weight 1 between voxels that share a face, or also an edge or corner. Lengths in mean spacings."""
    unit = float(np.prod(spacing_mm)) ** (1 / len(spacing_mm))
    found = []
    for offset in product((0, 1, -1), repeat=len(shape)):
        first = next((o for o in offset if o), 0)
        if first != 1 or (not diagonals and np.count_nonzero(offset) > 1):
            continue
        one = tuple(slice(max(0, -o), n - max(0, o)) for o, n in zip(offset, shape, strict=True))
        other = tuple(slice(max(0, o), n - max(0, -o)) for o, n in zip(offset, shape, strict=True))
        weight = np.ones(tuple(max(0, n - abs(o)) for o, n in zip(offset, shape, strict=True)))
        length = float(np.linalg.norm(np.asarray(offset) * np.asarray(spacing_mm))) / unit
        found.append(Links(one, other, weight, length))
    return found


def contrast_links(
    values: npt.NDArray[Any], spacing_mm: Sequence[float], sharpness: float = 1.0, diagonals: bool = False
) -> list[Links]:
    """Links of weight exp(-sharpness |I_p - I_q|^2 / 2 s^2) / dist(p, q) on values (C, *S).

    s^2 is the mean square of the differences between neighbours; sharpness 0 leaves the distance alone.
    """
    plain = links(values.shape[1:], spacing_mm, diagonals)
    squares = [
        np.square(values[(slice(None), *k.one)].astype(np.float64) - values[(slice(None), *k.other)]).sum(
            axis=0
        )
        for k in plain
    ]
    mean = sum(float(q.sum()) for q in squares) / max(sum(q.size for q in squares), 1)
    rate = sharpness / (2 * mean) if mean > 0 else 0.0
    return [k._replace(weight=np.exp(-rate * q) / k.length) for k, q in zip(plain, squares, strict=True)]


def scaled(graph: Sequence[Links], factor: float) -> list[Links]:
    """The same links, `factor` times as strong."""
    return [k._replace(weight=k.weight * factor) for k in graph]


def strength(shape: Sequence[int], graph: Sequence[Links]) -> Array:
    """Sum of the weights of every voxel's links, (*S)."""
    total = np.zeros(tuple(shape))
    for k in graph:
        total[k.one] += k.weight
        total[k.other] += k.weight
    return total


def energy(labels: npt.NDArray[Any], unary: Array, graph: Sequence[Links]) -> float:
    """E of labels (*S) under costs (K, *S): chosen costs plus the weights of links between unlike labels."""
    index = labels.astype(np.int64)
    chosen = np.take_along_axis(unary, index[None], axis=0).sum()
    return float(chosen + sum(float(k.weight[index[k.one] != index[k.other]].sum()) for k in graph))


def minimum_cut(cost: Array, graph: Sequence[Links]) -> Mask:
    """The x (*S) of smallest E. cost: d (*S), what it costs a voxel to be 1 (negative: to be 0); inf forces.

    Weights are rounded to about 2^30 / (sum of costs) levels, so among cuts of nearly equal value any may come.
    """
    cost, fixed, graph = decided(cost, graph)
    free = np.flatnonzero(fixed.ravel() < 0)
    result = fixed.ravel() == 1
    if len(free):
        result[free] = _cut_by_flow(cost, graph, free)
    return result.reshape(cost.shape)


def decided(cost: Array, graph: Sequence[Links]) -> tuple[Array, npt.NDArray[np.int8], list[Links]]:
    """(cost, fixed, links) after deciding voxels whose cost outweighs their links; fixed is -1 where open.

    A decided voxel's links become costs of its open neighbours, which may decide those in turn.
    """
    big = 2 * float(strength(cost.shape, graph).max(initial=0.0)) + 1
    cost = (
        np.clip(cost, -1e12, 1e12)
        if np.isfinite(cost).all()
        else np.nan_to_num(cost, posinf=big, neginf=-big)
    )
    cost = cost.astype(np.float64)
    fixed = np.full(cost.shape, -1, dtype=np.int8)
    graph = [k._replace(weight=k.weight.copy()) for k in graph]
    new = np.abs(cost) >= strength(cost.shape, graph)
    for _ in range(20):
        count = int(np.count_nonzero(new))
        if not count:
            break
        fixed[new] = cost[new] < 0
        if count > FEW * cost.size:
            _passed_on(cost, fixed, graph, new)
            new = (fixed < 0) & (np.abs(cost) >= strength(cost.shape, graph))
        else:
            new = _passed_on_by_few(cost, fixed, graph, np.flatnonzero(new))
    return cost, fixed, graph


def _passed_on(cost: Array, fixed: npt.NDArray[np.int8], graph: Sequence[Links], new: Mask) -> None:
    """Turns the links of newly decided voxels into costs of their open neighbours, in place."""
    for k in graph:
        for near, far in ((k.one, k.other), (k.other, k.one)):
            pull = np.where(new[near] & (fixed[far] < 0), k.weight, 0.0)
            cost[far] += np.where(fixed[near] == 1, -pull, pull)
        k.weight[new[k.one] | new[k.other]] = 0.0


def _passed_on_by_few(
    cost: Array, fixed: npt.NDArray[np.int8], graph: Sequence[Links], new: npt.NDArray[np.int64]
) -> Mask:
    """The same for few voxels, given by their flat places, without a look at the others; returns who is decided next."""
    touched = []
    for k in graph:
        links = _links_of(new, cost.shape, k)
        for near, far, place in links:
            is_open = fixed.ravel()[far] < 0
            near, far, place = near[is_open], far[is_open], place[is_open]
            weight = k.weight.ravel()[place]
            cost.ravel()[far] += np.where(fixed.ravel()[near] == 1, -weight, weight)
            touched.append(far)
        for _, _, place in links:
            k.weight.ravel()[place] = 0.0
    others = np.unique(np.concatenate(touched))
    bound = np.zeros(cost.size)
    for k in graph:
        for near, _, place in _links_of(others, cost.shape, k):
            bound[near] += k.weight.ravel()[place]
    decided_next = np.zeros(cost.shape, dtype=bool)
    decided_next.ravel()[others] = np.abs(cost.ravel()[others]) >= bound[others]
    return decided_next


def _links_of(
    voxels: npt.NDArray[np.int64], shape: Sequence[int], k: Links
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """(voxels, their neighbours, places of the weights) as one and as the other end, all flat; the border has none."""
    where = np.stack(np.unravel_index(voxels, tuple(shape)))
    found = []
    for ours, theirs in ((k.one, k.other), (k.other, k.one)):
        start, other = (np.array([s.start for s in ends])[:, None] for ends in (ours, theirs))
        place = where - start
        inside = ((place >= 0) & (place < np.array(k.weight.shape)[:, None])).all(axis=0)
        place = place[:, inside]
        found.append(
            (
                voxels[inside],
                np.ravel_multi_index(tuple(place + other), tuple(shape)),
                np.ravel_multi_index(tuple(place), k.weight.shape),
            )
        )
    return found


def _cut_by_flow(cost: Array, graph: Sequence[Links], free: npt.NDArray[np.int64]) -> Mask:
    """Which of the open voxels lie on the source's side (x = 1)."""
    from scipy import sparse
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    number = np.full(cost.size, -1, dtype=np.int32)
    number[free] = np.arange(len(free), dtype=np.int32)
    number = number.reshape(cost.shape)
    own = cost.ravel()[free]
    if not (own < 0).any():
        return np.zeros(len(free), dtype=bool)
    if not (own > 0).any():
        return np.ones(len(free), dtype=bool)
    total = min(-own[own < 0].sum(), own[own > 0].sum())
    largest = max(float(np.abs(own).max()), *(float(k.weight.max(initial=0)) for k in graph))
    scale = min(LARGEST_FLOW / total, LARGEST_FLOW / largest)
    rows, columns, capacity = [], [], []
    for k in graph:
        there = k.weight > 0
        one, other = number[k.one][there], number[k.other][there]
        weight = np.rint(k.weight[there] * scale).astype(np.int32)
        rows += [one, other]
        columns += [other, one]
        capacity += [weight, weight]
    source, sink = len(free), len(free) + 1
    first, last = np.flatnonzero(own < 0), np.flatnonzero(own > 0)
    rows += [np.full(len(first), source), last]
    columns += [first, np.full(len(last), sink)]
    capacity += [np.rint(-own[first] * scale).astype(np.int32), np.rint(own[last] * scale).astype(np.int32)]
    places = (np.concatenate(rows), np.concatenate(columns))
    network = sparse.csr_matrix((np.concatenate(capacity), places), shape=(sink + 1, sink + 1))
    residual = network - maximum_flow(network, source, sink).flow
    residual.data = np.maximum(residual.data, 0)
    residual.eliminate_zeros()
    reached = breadth_first_order(residual, source, return_predecessors=False)
    side = np.zeros(sink + 1, dtype=bool)
    side[reached] = True
    return side[: len(free)]
