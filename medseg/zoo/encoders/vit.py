"""Vision transformer. Dosovitskiy et al., ICLR 2021, arXiv:2010.11929: patches as words.

Differs from the paper: n-D; learned position codes are interpolated to the grid of the image; no dropout, no norm
after the last block (its features are tapped before it).
Oracle: the transformer inside the transformers library's DPT, with equal weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.layers import nd


@dataclass(frozen=True)
class Vision:
    """width of tokens, number of blocks, heads; patch: voxels a side; grid: patches a side with own position codes."""

    width: int
    depth: int
    heads: int
    patch: int = 16
    grid: int = 24


VITS = {
    "vit-b": Vision(768, 12, 12),
    "vit-l": Vision(1024, 24, 16),
    "vit-small": Vision(128, 4, 4, 16, 6),
    "vit-tiny": Vision(12, 4, 2, 16, 2),
}


class SelfAttention(nn.Module):
    """Multi-head attention of tokens (B, N, C) to each other; quadratic time, but no N x N matrix is kept."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.query_key_value(x).chunk(3, dim=2)
        query, key, value = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in parts)
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)) with four times the width inside."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = SelfAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """forward: (B, C, *S) -> tokens (B, 1 + N, width) after each of `taps` blocks (counted from 0).

    The first token belongs to no patch; the others are the patches, row-major on the grid S / patch.
    """

    def __init__(self, dims: int, in_channels: int, shape: Vision, taps: Sequence[int]) -> None:
        super().__init__()
        self.taps, self.grid = tuple(taps), (shape.grid,) * dims
        self.embed = nd.CONV[dims](in_channels, shape.width, shape.patch, shape.patch)
        self.whole = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.places = nn.Parameter(torch.zeros(1, 1 + shape.grid**dims, shape.width))
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads) for _ in range(max(taps) + 1))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.places, std=0.02)
        nn.init.trunc_normal_(self.whole, std=0.02)

    def forward(self, x: Tensor) -> list[Tensor]:
        patches = self.embed(x)
        codes = self.places[:, 1:].transpose(1, 2).unflatten(2, self.grid)
        tokens = (patches + nd.resize(codes, patches.shape[2:])).flatten(2).transpose(1, 2)
        whole = (self.whole + self.places[:, :1]).expand(len(x), -1, -1)
        tokens = torch.cat([whole, tokens], dim=1)
        found = []
        for number, block in enumerate(self.blocks):
            tokens = block(tokens)
            if number in self.taps:
                found.append(tokens)
        return found
