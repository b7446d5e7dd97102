"""Where a voxel lies, for layers that cannot tell by themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def coordinates(size: Sequence[int], device: torch.device | None = None) -> Tensor:
    """(D, *size): the position of each voxel's centre along each axis, from -1 to 1 at the image's borders."""
    lines = [(2 * torch.arange(n, device=device) + 1) / n - 1 for n in size]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"))


def sine_positions(size: Sequence[int], channels: int, device: torch.device | None = None) -> Tensor:
    """(channels, *size): sines and cosines of each axis's position, of wavelengths up to 10,000 times 2 pi.

    Carion et al. 2020, arXiv:2005.12872: positions grow from 1 and end at 2 pi; each axis has an equal share of the
    channels (in pairs), the first axis first; channels that remain are 0.
    """
    share = channels // (2 * len(size)) * 2
    steps = torch.arange(share, device=device)
    wavelengths = 10000.0 ** (2 * steps.div(2, rounding_mode="floor") / max(share, 1))
    codes = torch.zeros(channels, *size, device=device)
    for axis, n in enumerate(size):
        place = (torch.arange(n, device=device) + 1.0) / (n + 1e-6) * 2 * math.pi
        angles = place[:, None] / wavelengths
        waves = torch.where(steps % 2 == 0, angles.sin(), angles.cos()).T
        view = [1] * len(size)
        view[axis] = n
        codes[axis * share : (axis + 1) * share] = waves.reshape(share, *view)
    return codes
