"""OCNet. Yuan, Huang, Guo, Zhang, Chen, Wang, 2018, arXiv:1809.00916.

The context of a pixel is the object it belongs to: an object map, estimated by the similarity of each pixel with all
others, weighs the features that are gathered. Queries and keys are one transform, so similarity is symmetric before
its softmax; the gathered context is joined to the pixel's own feature.
Differs from the paper: the base form; the pyramid and ASPP forms are not built. In the head the authors' code has
leaky ReLUs of slope 0.01 and drops whole channels, here are ReLUs and single values. Volumes use 3D layers.
Oracle: none kept; the object map by its equation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.heads import BackboneNet, FCNHead, OnLast

ALL_UNITS = ((4, (2,)), (5, (4,)))
"""Dilation of all units of stages 4 and 5, the first ones too, as in the authors' code."""


class ObjectContext(nn.Module):
    """(B, C, *s) -> (B, C, *s): context by pixel similarity, concatenated with the input and mixed."""

    def __init__(self, dims: int, channels: int, dropout: float = 0.05) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.transform = ConvNormAct(dims, channels, inner, 1)
        self.value = plain_conv(dims, channels, inner, 1)
        self.out = plain_conv(dims, inner, channels, 1)
        self.mix = nn.Sequential(ConvNormAct(dims, 2 * channels, channels, 1), nn.Dropout(dropout))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        same = self.transform(x).flatten(2).transpose(1, 2)
        value = self.value(x).flatten(2).transpose(1, 2)
        context = F.scaled_dot_product_attention(same, same, value).transpose(1, 2)
        context = self.out(context.reshape(x.shape[0], -1, *x.shape[2:]))
        return self.mix(torch.cat([context, x], dim=1))


class OCNet(BackboneNet):
    """Base-OC on (B, in_channels, *S) -> logits (B, classes, *S)."""

    def __init__(
        self, dims: int, in_channels: int, classes: int, backbone: str = "resnet101", channels: int = 512
    ) -> None:
        encoder = make_resnet(backbone, dims, in_channels, 8, deep_stem=True, cycles=ALL_UNITS)
        head = nn.Sequential(
            ConvNormAct(dims, encoder.channels[-1], channels, 3),
            ObjectContext(dims, channels),
            plain_conv(dims, channels, classes, 1),
        )
        auxiliary = FCNHead(dims, encoder.channels[-2], classes, channels, 0.05)
        super().__init__(dims, encoder, OnLast(head), auxiliary, 0.4, divisor=8)
