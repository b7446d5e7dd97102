"""Attention to a few places that each token chooses. Zhu et al., ICLR 2021, arXiv:2010.04159 (Deformable DETR)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.layers.positions import coordinates


def references(sizes: Sequence[Sequence[int]], device: torch.device | None = None) -> Tensor:
    """(N, D): the places of all voxels of some grids, 0 to 1, last axis first as in grid_sample."""
    places = [coordinates(size, device).flatten(1).T.flip(1) for size in sizes]
    return (torch.cat(places) + 1) / 2


def directions(count: int, dims: int) -> Tensor:
    """(count, D) spread evenly over the circle or (by Fibonacci's spiral) the sphere, largest component 1."""
    step = torch.arange(count, dtype=torch.float32)
    if dims == 2:
        angle = step * (2 * math.pi / count)
        found = torch.stack([angle.cos(), angle.sin()], dim=1)
    else:
        height, angle = 1 - (2 * step + 1) / count, step * math.pi * (3 - 5**0.5)
        radius = (1 - height.square()).sqrt()
        found = torch.stack([radius * angle.cos(), radius * angle.sin(), height], dim=1)
    return found / found.abs().amax(dim=1, keepdim=True)


class DeformableAttention(nn.Module):
    """Equation 3: each head of each token reads `points` places on each of `levels` grids, weighed by softmax.

    Time and memory are linear in the number of tokens. Offsets start as rays, one direction a head.
    """

    def __init__(self, dims: int, width: int, heads: int, levels: int, points: int = 4) -> None:
        super().__init__()
        self.dims, self.heads, self.levels, self.points = dims, heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * dims)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        with torch.no_grad():
            self.offsets.weight.zero_()
            rays = directions(heads, dims)[:, None, None] * torch.arange(1, points + 1)[:, None]
            self.offsets.bias.copy_(rays.expand(heads, levels, points, dims).flatten())
            self.weights.weight.zero_()
            self.weights.bias.zero_()
            for layer in (self.value, self.out):
                nn.init.xavier_uniform_(layer.weight)
                layer.bias.zero_()

    def forward(
        self, query: Tensor, places: Tensor, source: Tensor, sizes: Sequence[Sequence[int]]
    ) -> Tensor:
        """query (B, N, C), its places (N, D) from `references`, source (B, M, C) of grids `sizes` -> (B, N, C)."""
        batch, count, width = query.shape
        shape = (batch, count, self.heads, self.levels, self.points)
        offsets = self.offsets(query).view(*shape, self.dims)
        weights = self.weights(query).view(*shape[:3], -1).softmax(dim=3).view(shape)
        values = self.value(source).view(batch, -1, self.heads, width // self.heads)
        grids = values.permute(0, 2, 3, 1).flatten(0, 1).split([math.prod(s) for s in sizes], dim=2)
        found = torch.zeros(batch * self.heads, width // self.heads, count, device=query.device)
        for level, (size, grid) in enumerate(zip(sizes, grids, strict=True)):
            scale = torch.tensor(list(size)[::-1], device=query.device)
            at = 2 * (places[:, None, None] + offsets[:, :, :, level] / scale) - 1  # (B, N, heads, points, D)
            at = at.transpose(1, 2).flatten(0, 1).float()
            weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
            read = read_at(grid.unflatten(2, tuple(size)).float(), at.flatten(1, 2)).unflatten(
                2, at.shape[1:3]
            )
            found = found + (read * weight[:, None]).sum(dim=3)
        return self.out(
            found.view(batch, self.heads, -1, count).flatten(1, 2).transpose(1, 2).to(query.dtype)
        )


def read_at(maps: Tensor, places: Tensor, beyond: str = "zeros") -> Tensor:
    """Linear interpolation: maps (M, C, *s), places (M, P, D) from -1 to 1, last axis first -> (M, C, P).

    beyond: what lies outside the outermost voxel centres, zeros or the nearest of them (border).
    """
    dims = maps.ndim - 2
    grid = places.view(len(places), -1, *(1,) * (dims - 1), dims)
    return F.grid_sample(maps, grid, padding_mode=beyond, align_corners=False).flatten(2)
