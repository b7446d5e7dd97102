"""Channels to space, for planes and volumes."""

from __future__ import annotations

from torch import Tensor


def voxel_shuffle(x: Tensor, factor: int) -> Tensor:
    """(B, f^D C, *s) -> (B, C, *(f s)): channel c f^D + (offsets, row-major) goes to that offset of each cell.

    In 2D the same as torch's pixel_shuffle. Shi et al. 2016, arXiv:1609.05158.
    """
    dims = x.ndim - 2
    batch, channels, *size = x.shape
    x = x.reshape(batch, channels // factor**dims, *(factor,) * dims, *size)
    order = [0, 1]
    for axis in range(dims):
        order += [2 + dims + axis, 2 + axis]
    return x.permute(order).reshape(batch, channels // factor**dims, *(n * factor for n in size))


def voxel_unshuffle(x: Tensor, factor: int) -> Tensor:
    """(B, C, *(f s)) -> (B, f^D C, *s): the inverse of `voxel_shuffle`."""
    dims = x.ndim - 2
    batch, channels, *size = x.shape
    split = [n for full in size for n in (full // factor, factor)]
    x = x.reshape(batch, channels, *split)
    order = [0, 1, *(3 + 2 * a for a in range(dims)), *(2 + 2 * a for a in range(dims))]
    return x.permute(order).reshape(batch, channels * factor**dims, *(n // factor for n in size))
