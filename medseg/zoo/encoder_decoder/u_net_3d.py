"""3D U-Net. Cicek, Abdulkadir, Lienkamp, Brox, Ronneberger, MICCAI 2016, arXiv:1606.06650.

The U-Net with all its operations in 3D and batch normalisation before each ReLU. Channels are doubled before each
max pooling rather than after it, so that no bottleneck of few channels arises, and up-convolutions keep their
channels. Voxels without a label get weight 0, so that a few annotated slices train a volume (here: the ignore label).
Differs from the paper: convolutions are padded (the paper's input of 132x132x116 gives 44x44x28); instance norm is
an option for batches of one or two.
Oracle: the paper's count of 19,069,955 weights, met to the last one without the batch norm's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, DoubleConv, Style
from medseg.zoo.layers.initial import kaiming


class UNet3D(nn.Module):
    """3D U-Net on (B, in_channels, *S) -> logits (B, classes, *S).

    features: channels after the second convolution of each level; the first has half of them. norm: batch (as
    published), instance or group.
    """

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
        style = Style(norm, bias=True)
        self.analysis = nn.ModuleList()
        channels = in_channels
        for width in features:
            self.analysis.append(DoubleConv(dims, channels, width, style, middle=width // 2))
            channels = width
        self.pool = nd.MAX_POOL[dims](2)
        self.up = nn.ModuleList(nd.CONV_TRANSPOSE[dims](w, w, 2, 2, bias=False) for w in features[1:])
        self.synthesis = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(dims, below + here, here, 3, style), ConvNormAct(dims, here, here, 3, style)
            )
            for here, below in pairwise(features)
        )
        self.head = nd.CONV[dims](features[0], classes, 1)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, stage in enumerate(self.analysis):
            x = stage(self.pool(x) if level else x)
            skips.append(x)
        skips.pop()
        for level in reversed(range(len(skips))):
            x = self.synthesis[level](torch.cat([self.up[level](x), skips[level]], dim=1))
        return self.head(x)
