"""Max pooling that remembers where each maximum stood, and the way back. Zeiler, Fergus 2014, arXiv:1311.2901."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pool_with_places(x: Tensor) -> tuple[Tensor, Tensor]:
    """Halves each axis: (maxima, their places in the flattened input of each channel)."""
    pool = F.max_pool2d if x.ndim == 4 else F.max_pool3d
    return pool(x, 2, return_indices=True)


def unpool(x: Tensor, places: Tensor, size: tuple[int, ...]) -> Tensor:
    """Puts values back where the maxima stood, zeros elsewhere. x, places: (B, C, *s) -> (B, C, *size)."""
    batch, channels = x.shape[:2]
    flat = x.new_zeros(batch, channels, _count(size))
    flat = flat.scatter(2, places.flatten(2), x.flatten(2))
    return flat.reshape(batch, channels, *size)


def _count(size: tuple[int, ...]) -> int:
    total = 1
    for n in size:
        total *= n
    return total
