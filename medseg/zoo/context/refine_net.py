"""RefineNet. Lin, Milan, Shen, Reid, CVPR 2017, arXiv:1611.06612.

Features of all four stages are fused from coarse to fine by blocks of short- and long-range residual connections:
pre-activation residual units on each input, a sum at the finer resolution, and chained residual pooling, in which a
5x5 max pooling and a convolution are added again and again so that wide context is gathered cheaply.
Differs from the paper: none; convolutions that change widths are 3x3 as in the authors' model, which also has dropout
of 0.5 on the two deepest stages and before the scores. Volumes use 3D layers.
Oracle: none kept; the published 118 M with ResNet-101.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.heads import BackboneNet


class ResidualConv(nn.Module):
    """x + conv(relu(conv(relu(x)))) with 3x3 convolutions."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.first = plain_conv(dims, channels, channels, 3)
        self.second = plain_conv(dims, channels, channels, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(torch.relu(x))))


class ChainedPooling(nn.Module):
    """relu(x), plus a chain of (5x5 max pooling, 3x3 convolution), each link added."""

    def __init__(self, dims: int, channels: int, links: int = 4) -> None:
        super().__init__()
        self.pool = nd.MAX_POOL[dims](5, 1, 2)
        self.convs = nn.ModuleList(plain_conv(dims, channels, channels, 3, bias=False) for _ in range(links))

    def forward(self, x: Tensor) -> Tensor:
        total = link = torch.relu(x)
        for conv in self.convs:
            link = conv(self.pool(link))
            total = total + link
        return total


class RefineBlock(nn.Module):
    """Adapts its input, adds what comes from the coarser block, pools in a chain, and refines."""

    def __init__(self, dims: int, inputs: int, channels: int, coarser: int | None) -> None:
        super().__init__()
        self.reduce = plain_conv(dims, inputs, channels, 3, bias=False)
        self.adapt = nn.Sequential(ResidualConv(dims, channels), ResidualConv(dims, channels))
        self.fuse = self.from_below = None
        if coarser is not None:
            self.fuse = plain_conv(dims, channels, channels, 3, bias=False)
            self.from_below = plain_conv(dims, coarser, channels, 3, bias=False)
        self.pooling = ChainedPooling(dims, channels)
        self.refine = nn.Sequential(*(ResidualConv(dims, channels) for _ in range(3)))

    def forward(self, x: Tensor, below: Tensor | None) -> Tensor:
        x = self.adapt(self.reduce(x))
        if self.fuse is not None and self.from_below is not None and below is not None:
            x = self.fuse(x) + nd.resize(self.from_below(below), x.shape[2:])
        return self.refine(self.pooling(x))


class Cascade(nn.Module):
    """Four blocks from coarse to fine, then scores at a quarter of the image."""

    def __init__(self, dims: int, channels: tuple[int, ...], classes: int, width: int) -> None:
        super().__init__()
        widths = [2 * width, width, width, width]
        self.blocks = nn.ModuleList(
            RefineBlock(dims, inputs, w, widths[i - 1] if i else None)
            for i, (inputs, w) in enumerate(zip(reversed(channels), widths, strict=True))
        )
        self.dropout = nn.Dropout(0.5)
        self.scores = plain_conv(dims, width, classes, 3)

    def forward(self, features: list[Tensor]) -> Tensor:
        x: Tensor | None = None
        for i, (block, feature) in enumerate(zip(self.blocks, reversed(features), strict=True)):
            x = block(self.dropout(feature) if i < 2 else feature, x)
        return self.scores(self.dropout(x))


class RefineNet(BackboneNet):
    """RefineNet on (B, in_channels, *S) -> logits (B, classes, *S). width: of the finer blocks; the first has twice."""

    def __init__(
        self, dims: int, in_channels: int, classes: int, backbone: str = "resnet101", width: int = 256
    ) -> None:
        encoder = make_resnet(backbone, dims, in_channels)
        super().__init__(dims, encoder, Cascade(dims, encoder.channels, classes, width))
