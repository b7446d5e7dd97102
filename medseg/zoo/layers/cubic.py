"""Cubic convolution interpolation on a reduced support. Keys 1981, doi:10.1109/TASSP.1981.1163711."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

KEYS_A = -0.5
"""Slope of the kernel at a distance of 1; with -1/2 Keys' interpolation is exact for parabolas."""


def keys_kernel(distance: Tensor, a: float = KEYS_A) -> Tensor:
    """Weight of a sample at a distance in samples (equation 4): cubic to 1, another cubic to 2, then 0."""
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def three_tap_matrix(length: int, new: int, device: torch.device | None = None) -> Tensor:
    """(new, length): row i holds the weights of the samples that make position i of the finer axis.

    The nearest sample and its two neighbours count, with Keys' weights brought to a sum of 1. Voxel centres lie as in
    `align_corners=False`; beyond the ends the outermost sample is repeated.
    """
    centre = (torch.arange(new, device=device) + 0.5) * (length / new) - 0.5
    nearest = torch.floor(centre + 0.5).long()
    taps = nearest[:, None] + torch.arange(-1, 2, device=device)
    weights = keys_kernel(centre[:, None] - taps)
    weights = weights / weights.sum(dim=1, keepdim=True)
    matrix = torch.zeros(new, length, device=device)
    return matrix.scatter_add_(1, taps.clamp(0, length - 1), weights)


def nine_point_cubic(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, *s) -> (B, C, *size) from 3 samples an axis: 9 points in a plane, 27 in a volume."""
    for axis, new in enumerate(size, start=2):
        if x.shape[axis] != new:
            matrix = three_tap_matrix(x.shape[axis], new, x.device).to(x.dtype)
            x = torch.movedim(torch.movedim(x, axis, -1) @ matrix.T, -1, axis)
    return x
