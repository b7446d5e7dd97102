"""Smooth background and sparse foreground. Minaee, Wang 2019, IEEE Trans. Image Processing 28(7), arXiv:1704.07711.

A block of the image is a smooth part, a few low frequencies of the cosine transform, plus a foreground that is absent at most
voxels and hangs together elsewhere: min |a|_1 + l1 |s|_1 + l2 TV(s) with f = P a + s. ADMM splits it into soft thresholds and one
linear system, and s gives the mask: text on a page, a lesion on even tissue.
Differs from the paper: additive, without its masked form, where a voxel belongs to one part only; with s = f - P a the system is
diagonal, because cosines are eigenvectors of differences too; 3D blocks have a 3D transform and 3D differences.
Oracle: none kept; the objective against SciPy's general minimiser on a small block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.features import standardised
from medseg.zoo.classical.otsu import intensity

NAME = "sparsity-based"
Array = npt.NDArray[np.float64]


class SparseForeground:
    """What stands out from a smooth background, bright or dark."""

    dims = (2, 3)

    def classes_of(self, **parameters: Any) -> Mapping[int, str]:
        return {1: "foreground"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        block: int = 64,
        bases: int = 10,
        sparsity: float = 10.0,
        variation: float = 10.0,
        threshold: float = 0.5,
        iterations: int = 50,
    ) -> npt.NDArray[np.uint8]:
        """image (C, *S) -> labels (*S).

        block: its width in voxels. bases: cosines of lowest frequency. sparsity, variation: l1, l2. threshold: of |s|, in
        standard deviations of the image. iterations: of ADMM. A constant image is all background.
        """
        if block < 2 or bases < 1:
            raise UserError(
                f"block {block} and bases {bases}", f"system {NAME}", "at least 2 voxels, 1 cosine"
            )
        grey = standardised(intensity(image)[None])[0].astype(np.float64)
        side = [min(block, n) for n in grey.shape]
        blocks = cut(grey, side)
        foreground = decomposed(blocks, low_cosines(side, bases), (sparsity, variation), iterations)[1]
        return (np.abs(joined(foreground, grey.shape, side)) > threshold).astype(np.uint8)


def cut(grey: Array, side: Sequence[int]) -> Array:
    """(*S) -> (B, *side): blocks, the last ones filled up by the border's values."""
    grey = np.pad(grey, [(0, -n % s) for n, s in zip(grey.shape, side, strict=True)], mode="edge")
    counts = [n // s for n, s in zip(grey.shape, side, strict=True)]
    split = grey.reshape([v for pair in zip(counts, side, strict=True) for v in pair])
    axes = [*range(0, 2 * grey.ndim, 2), *range(1, 2 * grey.ndim, 2)]
    return np.ascontiguousarray(split.transpose(axes)).reshape(-1, *side)


def joined(blocks: Array, shape: Sequence[int], side: Sequence[int]) -> Array:
    """The inverse of `cut`."""
    dims = len(shape)
    counts = [-(-n // s) for n, s in zip(shape, side, strict=True)]
    order = [axis for pair in zip(range(dims), range(dims, 2 * dims), strict=True) for axis in pair]
    whole = blocks.reshape(*counts, *side).transpose(order)
    return whole.reshape([c * s for c, s in zip(counts, side, strict=True)])[
        tuple(slice(0, n) for n in shape)
    ]


def low_cosines(side: Sequence[int], bases: int) -> tuple[Array, Array]:
    """(P, eigenvalues): the cosines of lowest frequency as columns (voxels, K), orthonormal, and of D^T D for each."""
    modes = sorted(product(*(range(min(n, bases)) for n in side)), key=lambda k: (sum(k), max(k), k))[:bases]
    columns = []
    for mode in modes:
        column = np.ones(())
        for frequency, n in zip(mode, side, strict=True):
            line = np.cos(np.pi * frequency * (np.arange(n) + 0.5) / n)
            column = np.multiply.outer(column, line / np.linalg.norm(line))
        columns.append(column.ravel())
    eigen = [sum(2 - 2 * np.cos(np.pi * k / n) for k, n in zip(mode, side, strict=True)) for mode in modes]
    return np.stack(columns, axis=1), np.asarray(eigen)


def decomposed(
    blocks: Array, basis: tuple[Array, Array], weights: tuple[float, float], iterations: int, rho: float = 1.0
) -> tuple[Array, Array]:
    """(background, foreground) (B, *side) of min |a|_1 + l1 |s|_1 + l2 |D s|_1 with f = P a + s, by ADMM.

    weights: l1, l2. Splits y = a, z = s, x = D s; the step in a is diagonal with 2 + eigenvalue of D^T D.
    """
    columns, eigen = basis
    side = blocks.shape[1:]
    flat = blocks.reshape(len(blocks), -1)
    y = u = np.zeros((len(blocks), columns.shape[1]))
    z, v = np.zeros_like(blocks), np.zeros_like(blocks)
    x = w = [np.zeros_like(blocks)] * len(side)
    rest = blocks
    for _ in range(iterations):
        target = z - v + transposed([a - b for a, b in zip(x, w, strict=True)])
        wanted = flat @ columns * (1 + eigen) - target.reshape(flat.shape) @ columns
        a = (y - u + wanted) / (2 + eigen)
        rest = (flat - a @ columns.T).reshape(blocks.shape)
        slopes = differences(rest)
        y, z = shrunk(a + u, 1 / rho), shrunk(rest + v, weights[0] / rho)
        x = [shrunk(s + b, weights[1] / rho) for s, b in zip(slopes, w, strict=True)]
        u, v = u + a - y, v + rest - z
        w = [b + s - c for b, s, c in zip(w, slopes, x, strict=True)]
    return blocks - rest, rest


def shrunk(values: Array, by: float) -> Array:
    """Soft threshold."""
    return np.sign(values) * np.maximum(np.abs(values) - by, 0)


def differences(blocks: Array) -> list[Array]:
    """D s: the difference to the next voxel along each axis, 0 at the end, of (B, *side)."""
    return [np.diff(blocks, axis=a, append=blocks.take([-1], axis=a)) for a in range(1, blocks.ndim)]


def transposed(slopes: Sequence[Array]) -> Array:
    """D^T of what `differences` returns."""
    total = np.zeros_like(slopes[0])
    for axis, slope in enumerate(slopes, start=1):
        inner = slope.take(range(slope.shape[axis] - 1), axis=axis)
        zero = np.zeros_like(slope.take([0], axis=axis))
        total += np.concatenate([zero, inner], axis=axis) - np.concatenate([inner, zero], axis=axis)
    return total
