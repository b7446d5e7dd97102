"""Point-wise spatial attention. Zhao et al., ECCV 2018, doi:10.1007/978-3-030-01240-3_17."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv


def relative_places(size: Sequence[int], mask: Sequence[int]) -> Tensor:
    """Where in a flattened mask the offset from position p to q stands: (N, N) as [q, p], -1 outside the mask."""
    axes = torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij")
    where = torch.stack([a.flatten() for a in axes])  # (D, N)
    offset = where[:, :, None] - where[:, None, :]
    flat, inside = torch.zeros_like(offset[0]), torch.ones_like(offset[0], dtype=torch.bool)
    for line, length in zip(offset, mask, strict=True):
        step = line + length // 2
        inside &= (step >= 0) & (step < length)
        flat = flat * length + step
    return torch.where(inside, flat, -1)


def full_attention(relative: Tensor, mask: Sequence[int]) -> Tensor:
    """An over-complete map (B, prod(mask), *s), one weight for each offset -> logits (B, N, N) as [q, p].

    Offsets that the mask does not hold have logit 0, as in the authors' code.
    """
    places = relative_places(relative.shape[2:], mask).to(relative.device)
    gathered = relative.flatten(2).gather(1, places.clamp(min=0).expand(relative.shape[0], -1, -1))
    return gathered.masked_fill(places < 0, 0.0)


class PointWiseAttention(nn.Module):
    """Each position predicts what it collects from, and what it distributes to, all others, by their offset.

    The input is reduced to `inner` channels and to a `shrink`-th of its size for each of both directions; a 1x1 layer
    predicts an over-complete map of weights for all offsets that `mask` holds, the part that lies in the image is cut
    out, and a softmax over the sources weighs their features. (B, C, *s) -> (B, 2 C, *s): the input beside its context.
    """

    def __init__(self, dims: int, channels: int, inner: int, mask: Sequence[int], shrink: int = 2) -> None:
        super().__init__()
        self.mask, self.shrink = tuple(mask), shrink
        total = 1
        for length in self.mask:
            total *= length
        self.reduce = nn.ModuleList(ConvNormAct(dims, channels, inner, 1) for _ in range(2))
        self.predict = nn.ModuleList(
            nn.Sequential(ConvNormAct(dims, inner, inner, 1), plain_conv(dims, inner, total, 1, bias=False))
            for _ in range(2)
        )
        self.project = ConvNormAct(dims, 2 * inner, channels, 1)

    def collect(self, x: Tensor) -> Tensor:
        """Reduced features -> what each position gathers by its own map: (B, inner, *s)."""
        weights = torch.softmax(full_attention(self.predict[0](x), self.mask), dim=1)
        return (x.flatten(2) @ weights).reshape(x.shape)

    def distribute(self, x: Tensor) -> Tensor:
        """Reduced features -> what each position gets by the maps of the others: (B, inner, *s)."""
        weights = torch.softmax(full_attention(self.predict[1](x), self.mask).transpose(1, 2), dim=1)
        return (x.flatten(2) @ weights).reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        small = [(n - 1) // self.shrink + 1 for n in size]
        here, there = (nd.resize(reduce(x), small, align_corners=True) for reduce in self.reduce)
        context = self.project(torch.cat([self.collect(here), self.distribute(there)], dim=1))
        return torch.cat([x, nd.resize(context, size, align_corners=True)], dim=1)
