"""EMANet. Li, Zhong, Wu, Yang, Lin, Liu, ICCV 2019, arXiv:1907.13426.

Attention by expectation-maximisation: K bases are fitted to the features of an image in T rounds (responsibilities of
bases for positions, then weighted means), and the features are rebuilt from them. Positions attend to K bases instead
of to each other, so the cost is linear in voxels, and the rebuilt features are of low rank.
Differs from the paper: gradients pass through the rounds; the authors' code stops them, which leaves the first 1x1
convolution untrained. Bases move with the running mean of the images' (momentum 0.9), in training mode only. As in
the authors' code the units of stage 5 have dilation 2, 8 and 16 and there is no auxiliary head; dropout drops single
values, theirs whole channels. Volumes use 3D layers.
Oracle: none kept; the rounds by their equations.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv
from medseg.zoo.layers.heads import BackboneNet, FCNHead, OnLast

MULTI_GRID = ((5, (2, 8, 16)),)
"""Dilations of the last stage's units: 4 times (1, 2, 4), but the first keeps what fits the stage before."""


class EMAttention(nn.Module):
    """relu(x + BN(1x1(rebuilt features))) on (B, C, *s). bases: K; rounds: T."""

    mu: Tensor

    def __init__(self, dims: int, channels: int, bases: int = 64, rounds: int = 3) -> None:
        super().__init__()
        start = torch.randn(1, channels, bases, device="cpu") * math.sqrt(2.0 / bases)
        self.register_buffer("mu", F.normalize(start, dim=1))
        self.rounds, self.momentum = rounds, 0.9
        self.enter = plain_conv(dims, channels, channels, 1)
        self.leave = ConvNormAct(dims, channels, channels, 1, Style("batch", "none"))

    def fit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, C, N) -> bases (B, C, K) of unit length and responsibilities (B, N, K)."""
        mu = self.mu.to(x.dtype, copy=True).expand(x.shape[0], -1, -1)
        for _ in range(self.rounds):
            z = torch.softmax(x.transpose(1, 2) @ mu, dim=2)
            mu = F.normalize(x @ (z / (z.sum(dim=1, keepdim=True) + 1e-6)), dim=1)
        return mu, z

    def forward(self, x: Tensor) -> Tensor:
        mu, z = self.fit(self.enter(x).flatten(2))
        if self.training:
            with torch.no_grad():
                new = mu.detach().float().mean(dim=0, keepdim=True)
                self.mu.mul_(self.momentum).add_(new, alpha=1 - self.momentum)
        rebuilt = torch.relu(mu @ z.transpose(1, 2)).reshape(x.shape)
        return torch.relu(x + self.leave(rebuilt))


class EMANet(BackboneNet):
    """EMANet on (B, in_channels, *S) -> logits (B, classes, *S)."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        channels: int = 512,
        bases: int = 64,
        rounds: int = 3,
    ) -> None:
        encoder = make_resnet(backbone, dims, in_channels, 8, deep_stem=True, cycles=MULTI_GRID)
        head = nn.Sequential(
            ConvNormAct(dims, encoder.channels[-1], channels, 3),
            EMAttention(dims, channels, bases, rounds),
            FCNHead(dims, channels, classes, max(channels // 2, 1)),
        )
        super().__init__(dims, encoder, OnLast(head), divisor=8)
