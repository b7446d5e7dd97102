"""UPerNet. Xiao, Liu, Zhou, Jiang, Sun, ECCV 2018, arXiv:1807.10221.

A feature pyramid whose top holds a pyramid pooling module: the effective field of view of a deep network is small, so
the top-down path starts from features that know the whole image. All levels are brought to a quarter of the image and
fused; objects and parts are classified there.
Differs from the paper: one semantic head (the paper also learns scenes, materials and textures where labelled). The
auxiliary head, the dropout and the 7x7 stem are those of the transformers library; the authors' public network has
neither of the first two and a stem of three 3x3. Volumes use 3D layers.
Oracle: none installed; 66.5 M with ResNet-50, width 512 and the auxiliary head, as in the transformers library.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.heads import BackboneNet, FCNHead
from medseg.zoo.layers.pooling import PyramidPooling


class UnifiedHead(nn.Module):
    """Features (finest first) -> logits on the finest grid."""

    def __init__(self, dims: int, channels: Sequence[int], classes: int, width: int) -> None:
        super().__init__()
        pooling = PyramidPooling(dims, channels[-1], width)
        self.top = nn.Sequential(pooling, ConvNormAct(dims, pooling.channels, width, 3))
        self.lateral = nn.ModuleList(ConvNormAct(dims, c, width, 1) for c in channels[:-1])
        self.smooth = nn.ModuleList(ConvNormAct(dims, width, width, 3) for _ in channels[:-1])
        self.fuse = ConvNormAct(dims, len(channels) * width, width, 3)
        self.classify = nn.Sequential(nn.Dropout(0.1), plain_conv(dims, width, classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        levels = [lateral(x) for lateral, x in zip(self.lateral, features[:-1], strict=True)]
        levels.append(self.top(features[-1]))
        for fine in reversed(range(len(levels) - 1)):
            levels[fine] = levels[fine] + nd.resize(levels[fine + 1], levels[fine].shape[2:])
        size = levels[0].shape[2:]
        levels[:-1] = [smooth(x) for smooth, x in zip(self.smooth, levels[:-1], strict=True)]
        return self.classify(self.fuse(torch.cat([nd.resize(x, size) for x in levels], dim=1)))


class UPerNet(BackboneNet):
    """UPerNet on (B, in_channels, *S) -> logits (B, classes, *S)."""

    def __init__(
        self, dims: int, in_channels: int, classes: int, backbone: str = "resnet50", width: int = 512
    ) -> None:
        encoder = make_resnet(backbone, dims, in_channels)
        head = UnifiedHead(dims, encoder.channels, classes, width)
        auxiliary = FCNHead(dims, encoder.channels[-2], classes, max(width // 2, 1))
        super().__init__(dims, encoder, head, auxiliary, 0.4)
