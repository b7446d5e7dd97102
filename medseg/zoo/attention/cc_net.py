"""CCNet. Huang et al., ICCV 2019 and TPAMI 2020, arXiv:1811.11721.

Criss-cross attention gathers, for each position, from its own row and column only; done twice with the same weights,
every position has heard from every other at a fraction of the cost of full attention. In volumes there are three
axes, and three rounds reach everything.
Differs from the paper: its category-consistent loss is left to the trainer. In the head the authors' code has leaky
ReLUs of slope 0.01 and drops whole channels, here are ReLUs and single values. A position meets itself once.
Oracle: none kept; the attention by its definition, position by position; 66.4 M with ResNet-101 by its layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.heads import BackboneNet, FCNHead, OnLast

ALL_UNITS = ((4, (2,)), (5, (4,)))
"""Dilation of all units of stages 4 and 5, the first ones too, as in the authors' code."""


class CrissCrossAttention(nn.Module):
    """x + gamma sum over the axes' lines of softmax(q k) v; one softmax over all lines. (B, C, *s) -> same."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        inner = max(channels // 8, 1)
        self.query, self.key = plain_conv(dims, channels, inner, 1), plain_conv(dims, channels, inner, 1)
        self.value = plain_conv(dims, channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        axes = range(2, x.ndim)
        energies = []
        for axis in axes:
            q, k = lines(query, axis), lines(key, axis)
            energy = q @ k.transpose(-1, -2)
            if axis > 2:  # every axis meets the position itself; it counts once
                own = torch.eye(energy.shape[-1], dtype=torch.bool, device=x.device)
                energy = energy.masked_fill(own, float("-inf"))
            energies.append(energy.movedim(-2, axis - 1))
        weights = torch.softmax(torch.cat(energies, dim=-1), dim=-1)
        total = torch.zeros_like(value)
        for axis, part in zip(axes, weights.split([e.shape[-1] for e in energies], dim=-1), strict=True):
            gathered = part.movedim(axis - 1, -2) @ lines(value, axis)
            total = total + gathered.movedim(-1, 1).movedim(-1, axis)
        return x + self.gamma * total


def lines(x: Tensor, axis: int) -> Tensor:
    """(B, C, *s) -> (B, the other axes, length of `axis`, C)."""
    return x.movedim(axis, -1).movedim(1, -1)


class Recurrent(nn.Module):
    """3x3, criss-cross rounds with one set of weights, 3x3, beside the input: 3x3 and scores."""

    def __init__(
        self, dims: int, inputs: int, classes: int, channels: int, rounds: int, dropout: float
    ) -> None:
        super().__init__()
        self.enter = ConvNormAct(dims, inputs, channels, 3)
        self.attention = CrissCrossAttention(dims, channels)
        self.leave = ConvNormAct(dims, channels, channels, 3)
        self.rounds = rounds
        self.head = FCNHead(dims, inputs + channels, classes, channels, dropout)

    def forward(self, x: Tensor) -> Tensor:
        out = self.enter(x)
        for _ in range(self.rounds):
            out = self.attention(out)
        return self.head(torch.cat([x, self.leave(out)], dim=1))


class CCNet(BackboneNet):
    """CCNet on (B, in_channels, *S) -> logits (B, classes, *S). rounds: of attention (None: one an axis)."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        channels: int = 512,
        rounds: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        encoder = make_resnet(backbone, dims, in_channels, 8, deep_stem=True, cycles=ALL_UNITS)
        head = Recurrent(dims, encoder.channels[-1], classes, channels, rounds or dims, dropout)
        auxiliary = FCNHead(dims, encoder.channels[-2], classes, channels, dropout)
        super().__init__(dims, encoder, OnLast(head), auxiliary, 0.4, divisor=8)
