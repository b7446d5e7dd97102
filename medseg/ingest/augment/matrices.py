"""Blurring and coarsening along one axis as a matrix product: milliseconds where a 3D convolution takes tens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.ingest.resample import axis_matrix


def along_axes(channel: Tensor, matrices: Sequence[npt.NDArray[np.float32] | None]) -> Tensor:
    """One channel (*S), each axis multiplied by its matrix (n, n); None leaves an axis alone."""
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            weights = torch.from_numpy(matrix).to(device=channel.device, dtype=channel.dtype)
            channel = torch.matmul(channel.movedim(axis, -1), weights.T).movedim(-1, axis)
    return channel.contiguous()


def gaussian(n: int, sigma: float) -> npt.NDArray[np.float32]:
    """Gaussian blur of a line of n voxels (sigma in voxels), edges mirrored, cut at 4 sigma."""
    reach = max(1, int(np.ceil(4 * sigma)))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    matrix = np.zeros((n, n))
    place = np.arange(n)[:, None] + np.arange(-reach, reach + 1)
    period = max(1, 2 * n)
    mirrored = np.minimum(place % period, period - 1 - place % period)
    np.add.at(matrix, (np.arange(n)[:, None], mirrored), kernel / kernel.sum())
    return matrix.astype(np.float32)


def coarser(n: int, factor: float) -> npt.NDArray[np.float32]:
    """A line of n voxels kept at `factor` of its resolution: nearest voxel down, linear up."""
    small = max(1, round(n * factor))
    return axis_matrix(small, n, 1) @ axis_matrix(n, small, 0)
