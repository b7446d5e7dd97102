"""Labellings of low energy on the grid: ICM, alpha-expansion, mean field.

The energy is E(L) = sum_v U(L_v, v) + sum_(u,v) w_uv [L_u != L_v] with costs U (K, *S) and links w of faces.
ICM: Besag 1986, doi:10.1111/j.2517-6161.1986.tb01412.x. Alpha-expansion: Boykov, Veksler, Zabih 2001,
doi:10.1109/34.969114. Voxels are visited in two colours like a chess board's; no voxel has a neighbour of its own colour,
so that a whole colour is changed at once as if one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError, did_you_mean
from medseg.zoo.classical.graphs.grid import Links, energy, minimum_cut

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def votes(shares: npt.NDArray[Any], graph: Sequence[Links]) -> Array:
    """Sum over neighbours of weight x share, for shares (K, *S)."""
    total = np.zeros(shares.shape)
    for k in graph:
        one, other = (slice(None), *k.one), (slice(None), *k.other)
        total[one] += k.weight * shares[other]
        total[other] += k.weight * shares[one]
    return total


def chess_board(shape: Sequence[int]) -> npt.NDArray[np.bool_]:
    """True on one of the two colours."""
    grids = np.ogrid[tuple(slice(0, n) for n in shape)]
    return np.asarray(sum(grids) % 2 == 0)


def icm(unary: Array, graph: Sequence[Links], rounds: int = 20, labels: Labels | None = None) -> Labels:
    """Every voxel takes the label that is cheapest given its neighbours, until none changes. Energy never rises."""
    labels = unary.argmin(axis=0) if labels is None else labels.copy()
    classes = np.arange(len(unary)).reshape(-1, *(1,) * labels.ndim)
    white = chess_board(labels.shape)
    for _ in range(rounds):
        changed = False
        for colour in (white, ~white):
            cost = unary - votes(labels[None] == classes, graph)
            best = cost.argmin(axis=0)
            kept = np.take_along_axis(cost, labels[None], axis=0)[0]
            move = colour & (np.take_along_axis(cost, best[None], axis=0)[0] < kept - 1e-9)
            labels[move] = best[move]
            changed |= bool(move.any())
        if not changed:
            break
    return labels


def expansion(unary: Array, graph: Sequence[Links], rounds: int = 3) -> Labels:
    """Each label in turn takes from the others the voxels that lower the energy most, by one exact cut.

    With two labels the first cut is the exact minimum.
    """
    labels = np.zeros(unary.shape[1:], dtype=np.int64) if len(unary) <= 2 else unary.argmin(axis=0)
    best = energy(labels, unary, graph)
    for _ in range(rounds if len(unary) > 2 else 1):
        before = best
        for alpha in range(len(unary)):
            moved = np.where(expand(labels, alpha, unary, graph), alpha, labels)
            value = energy(moved, unary, graph)
            if value < best - 1e-9 * abs(best):
                labels, best = moved, value
        if best >= before:
            break
    return labels


def expand(labels: Labels, alpha: int, unary: Array, graph: Sequence[Links]) -> npt.NDArray[np.bool_]:
    """Which voxels take label alpha in the best single expansion.

    Neighbours of unlike labels pay w unless both take alpha: w (1 - x y) = w - w (x + y) / 2 + w |x - y| / 2.
    """
    mine = labels == alpha
    cost = unary[alpha] - np.take_along_axis(unary, labels[None], axis=0)[0]
    moved = []
    for k in graph:
        apart = (labels[k.one] != labels[k.other]) & ~mine[k.one] & ~mine[k.other]
        half = np.where(apart, k.weight / 2, 0.0)
        cost[k.one] -= half
        cost[k.other] -= half
        moved.append(k._replace(weight=k.weight - half))
    cost[mine] = -np.inf
    return minimum_cut(cost, moved) | mine


def mean_field(unary: Array, graph: Sequence[Links], rounds: int = 10) -> Array:
    """Marginals (K, *S) of independent voxels nearest to the field; each colour's step lowers the free energy."""
    shares = softmax(-unary)
    white = chess_board(unary.shape[1:])
    for _ in range(rounds):
        before = shares
        for colour in (white, ~white):
            shares = np.where(colour, softmax(votes(shares, graph) - unary), shares)
        if np.abs(shares - before).max() < 1e-4:
            break
    return shares


def free_energy(shares: Array, unary: Array, graph: Sequence[Links]) -> float:
    """Expected energy minus entropy under independent marginals (K, *S)."""
    pairs = sum(
        float(
            (
                k.weight * (1 - (shares[(slice(None), *k.one)] * shares[(slice(None), *k.other)]).sum(axis=0))
            ).sum()
        )
        for k in graph
    )
    return float((shares * unary).sum() + (shares * np.log(np.maximum(shares, 1e-300))).sum() + pairs)


def softmax(scores: Array) -> Array:
    """Softmax over the first axis."""
    odds = np.exp(scores - scores.max(axis=0))
    return odds / odds.sum(axis=0)


SOLVERS: dict[str, Callable[[Array, Sequence[Links]], Labels]] = {
    "expansion": expansion,
    "icm": icm,
    "mean-field": lambda unary, graph: mean_field(unary, graph).argmax(axis=0),
}


def solve(unary: Array, graph: Sequence[Links], solver: str, name: str) -> Labels:
    """Labels (*S) by the solver of that name."""
    if solver not in SOLVERS:
        raise UserError(
            f"no solver named {solver!r}{did_you_mean(solver, SOLVERS)}",
            f"system {name}",
            f"one of {', '.join(SOLVERS)}",
        )
    return SOLVERS[solver](unary, graph)
