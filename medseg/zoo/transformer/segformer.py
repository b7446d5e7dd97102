"""SegFormer. Xie, Wang, Yu, Anandkumar, Alvarez, Luo, NeurIPS 2021, arXiv:2105.15203.

A hierarchical transformer without positional codes (zero padding of a depth-wise convolution in its MLPs tells
position, so any size works) whose attention reads a shrunk map, and a head of nothing but linear layers: each level
to one width, all to a quarter of the image, fused and classified.
Differs from the paper: no stochastic depth. Volumes use 3D patches; keys shrink along three axes.
Oracle: none installed; with 150 classes the paper's 84.7 M weights of B5 and its 8.4 G (B0, 512 x 512) and 183.3 G (B5,
640 x 640) multiplications and additions; counts of the transformers library, B0 3.72 M to B5 84.61 M with 19.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.core.errors import did_you_mean
from medseg.zoo.encoders.mit import MIXES, MixTransformer
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.heads import BackboneNet


class AllMLPHead(nn.Module):
    """Linear layers only: (features, finest first) -> logits at a quarter of the image."""

    def __init__(self, dims: int, channels: Sequence[int], classes: int, width: int) -> None:
        super().__init__()
        self.unify = nn.ModuleList(plain_conv(dims, c, width, 1) for c in channels)
        self.fuse = nn.Sequential(ConvNormAct(dims, len(channels) * width, width, 1), nn.Dropout(0.1))
        self.classify = plain_conv(dims, width, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        size = features[0].shape[2:]
        levels = [nd.resize(linear(x), size) for linear, x in zip(self.unify, features, strict=True)]
        return self.classify(self.fuse(torch.cat(levels, dim=1)))


class SegFormer(BackboneNet):
    """SegFormer on (B, in_channels, *S) -> logits (B, classes, *S). mix: b0 ... b5; width: of the head."""

    def __init__(self, dims: int, in_channels: int, classes: int, mix: str = "b5", width: int = 768) -> None:
        if mix not in MIXES:
            raise ValueError(
                f"no Mix Transformer {mix!r}{did_you_mean(mix, MIXES)}; there are {', '.join(MIXES)}"
            )
        encoder = MixTransformer(dims, in_channels, MIXES[mix])
        super().__init__(dims, encoder, AllMLPHead(dims, encoder.channels, classes, width))
