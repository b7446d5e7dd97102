"""HRNetV2. Wang et al., TPAMI 2020, arXiv:1908.07919; segmentation: Sun et al. 2019, arXiv:1904.04514.

High resolution is never given up: the network starts at a quarter of the image, adds streams of half the resolution
and twice the channels stage by stage, and lets all streams exchange again and again. The head brings all streams to
the finest, concatenates them and classifies.
Differs from the paper: none. Volumes use 3D layers; W18 suits them.
Oracle: none installed; the published 65.8 M of W48 with 19 classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.hrnet import HRNet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv
from medseg.zoo.layers.heads import BackboneNet


class StreamHead(nn.Module):
    """All streams on the finest grid, concatenated, 1x1 with norm, 1x1 scores."""

    def __init__(self, dims: int, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        total = sum(channels)
        self.mix = nn.Sequential(
            ConvNormAct(dims, total, total, 1, Style("batch", "relu", bias=True)),
            plain_conv(dims, total, classes, 1),
        )

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        size = streams[0].shape[2:]
        return self.mix(torch.cat([nd.resize(x, size) for x in streams], dim=1))


class HRNetV2(BackboneNet):
    """HRNetV2 on (B, in_channels, *S) -> logits (B, classes, *S). width: channels of the finest stream."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        width: int = 48,
        modules: Sequence[int] = (1, 4, 3),
        units: int = 4,
        stem: int = 64,
    ) -> None:
        encoder = HRNet(dims, in_channels, width, modules, units, stem)
        super().__init__(dims, encoder, StreamHead(dims, encoder.channels, classes))
