"""Deep residual U-Net. Zhang, Liu, Wang, IEEE GRSL 2018, arXiv:1711.10684.

A U-Net whose stages are pre-activation residual units; the first convolution of a unit has stride 2 in place of
pooling. Seven units, three down, a bridge, three up, with upsampling and concatenation before each unit up.
Differs from the paper: shortcuts that change channels or size are 1x1 convolutions (the paper draws an identity and
its 7.8 M weights count none); upsampling is by nearest voxel, which the paper leaves open; logits in place of the
sigmoid map, and any loss in place of the mean squared error. Volumes use 3D layers.
Oracle: none kept; the count of the main path equals the paper's 7.8 M.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.initial import kaiming


class ResidualUnit(nn.Module):
    """norm-ReLU-conv, norm-ReLU-conv, plus the shortcut. The network's first unit starts with the bare convolution."""

    def __init__(
        self, dims: int, inputs: int, outputs: int, stride: int, norm: str, first: bool = False
    ) -> None:
        super().__init__()
        opening = [] if first else [nd.make_norm(norm, dims, inputs), nd.make_activation("relu")]
        self.path = nn.Sequential(
            *opening,
            plain_conv(dims, inputs, outputs, 3, stride=stride),
            nd.make_norm(norm, dims, outputs),
            nd.make_activation("relu"),
            plain_conv(dims, outputs, outputs, 3),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nd.CONV[dims](inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        if isinstance(self.shortcut, nn.Identity):
            shortcut = (
                shortcut.clone()
            )  # the in-place ReLU of the path must not reach it where no norm stands before
        return self.path(x) + shortcut


class ResUNet(nn.Module):
    """Residual U-Net on (B, in_channels, *S) -> logits (B, classes, *S). features: channels down to the bridge."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        features: Sequence[int] = (64, 128, 256, 512),
        norm: str = "batch",
    ) -> None:
        super().__init__()
        self.divisor = (2 ** (len(features) - 1),) * dims
        inputs = (in_channels, *features[:-1])
        self.encoder = nn.ModuleList(
            ResidualUnit(dims, i, o, 2 if level else 1, norm, first=level == 0)
            for level, (i, o) in enumerate(zip(inputs, features, strict=True))
        )
        self.decoder = nn.ModuleList(
            ResidualUnit(dims, below + here, here, 1, norm) for here, below in pairwise(features)
        )
        self.head = nd.CONV[dims](features[0], classes, 1)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for unit in self.encoder:
            x = unit(x)
            skips.append(x)
        skips.pop()
        for level in reversed(range(len(skips))):
            x = nd.resize(x, skips[level].shape[2:], "nearest")
            x = self.decoder[level](torch.cat([x, skips[level]], dim=1))
        return self.head(x)
