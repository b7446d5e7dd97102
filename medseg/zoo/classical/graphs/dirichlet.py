"""The walker's Dirichlet problem on a grid: L_U x = -B^T m, by conjugate gradients on a matrix of diagonals.

Voxels keep their places in the matrix, so that it is one diagonal for each neighbour and nothing has to be sorted or
renumbered; a seed's row says that its voxel is what it is. The classes' probabilities add up to 1, so that one class
fewer than there are is solved for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
LEAST = 1e-10
"""Added to every weight, so that no voxel is cut off."""

SINGLE = 1e-5
"""Single precision is exact enough for tolerances from here on."""


def walker_weights(values: Array, spacing: Sequence[float], beta: float) -> list[Array]:
    """exp(-beta |I_p - I_q|^2 / (10 sd sqrt(C) spacing^2)) for each axis, (*S): the link to the next voxel, 0 at the end."""
    rate = beta / (10 * float(values.std(dtype=np.float64)) * np.sqrt(len(values)) or np.inf)
    found = []
    for axis, s in enumerate(spacing):
        steps = np.diff(values, axis=axis + 1)
        square = np.einsum("c...,c...->...", steps, steps)
        square *= -rate / (s * s)
        weight = np.zeros(values.shape[1:], dtype=values.dtype)
        inner = tuple(slice(None, -1) if a == axis else slice(None) for a in range(weight.ndim))
        weight[inner] = np.exp(square, out=square)
        weight[inner] += LEAST
        found.append(weight)
    return found


def probabilities(weights: Sequence[Array], marks: npt.NDArray[np.int32], tolerance: float) -> Array:
    """(K, *S): how likely a walker from each voxel first meets class 1 ... K of the marks (*S), 0 being none."""
    from scipy.sparse import dia_array
    from scipy.sparse.linalg import LinearOperator, cg

    kinds, size = int(marks.max()), marks.size
    free = (marks == 0).ravel()
    strides = [int(np.prod(marks.shape[axis + 1 :])) for axis in range(marks.ndim)]
    diagonal = _degree(weights)
    rows, offsets = [np.where(free, diagonal, 1.0)], [0]
    for weight, stride in zip(weights, strides, strict=True):
        link = weight.ravel() * free
        link[: size - stride] *= free[stride:]
        rows += [-link, -np.roll(link, stride)]
        offsets += [-stride, stride]
    kind = weights[0].dtype
    matrix = dia_array((np.stack(rows).astype(kind, copy=False), offsets), shape=(size, size))
    inverse = (1 / rows[0]).astype(kind)
    precondition = LinearOperator((size, size), matvec=lambda x: inverse * x.ravel(), dtype=kind)
    found = np.zeros((kinds, size), dtype=kind)
    # The last class is what the others leave.
    for number in range(1, kinds):
        pull = (_pull(weights, marks == number).ravel() * free).astype(kind)
        found[number - 1] = cg(matrix, pull, rtol=tolerance, atol=0, M=precondition)[0]
    found[-1] = 1 - found[:-1].sum(axis=0)
    return found.reshape(kinds, *marks.shape)


def _degree(weights: Sequence[Array]) -> Array:
    """Sum (N,) of the weights of every voxel's links."""
    return _pull(weights, np.ones(weights[0].shape, dtype=bool)).ravel()


def _pull(weights: Sequence[Array], seeds: npt.NDArray[np.bool_]) -> Array:
    """Sum (*S) of the weights of every voxel's links to seeds."""
    total = np.zeros(seeds.shape, dtype=weights[0].dtype)
    for axis, weight in enumerate(weights):
        low = tuple(slice(None, -1) if a == axis else slice(None) for a in range(seeds.ndim))
        high = tuple(slice(1, None) if a == axis else slice(None) for a in range(seeds.ndim))
        total[low] += weight[low] * seeds[high]
        total[high] += weight[low] * seeds[low]
    return total
