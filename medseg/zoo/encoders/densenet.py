"""DenseNet. Huang, Liu, van der Maaten, Weinberger, CVPR 2017, arXiv:1608.06993: every layer sees all earlier ones.

Differs from the paper: n-D; the last transitions may keep the resolution, with dilated layers behind them.
Oracle: the published 7.98 M of DenseNet-121 with its 1000-class layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.initial import kaiming

BLOCKS = {
    "densenet121": ((6, 12, 24, 16), 64, 32),
    "densenet161": ((6, 12, 36, 24), 96, 48),
    "densenet169": ((6, 12, 32, 32), 64, 32),
    "densenet201": ((6, 12, 48, 32), 64, 32),
    "densenet-small": ((2, 4, 6, 4), 32, 16),
    "densenet-tiny": ((1, 1, 2, 2), 4, 4),
}
"""Layers of the four blocks, channels of the stem, growth."""


class PreConv(nn.Sequential):
    """norm, ReLU, convolution."""

    def __init__(
        self, dims: int, inputs: int, outputs: int, kernel: int, dilation: int = 1, bias: bool = False
    ) -> None:
        super().__init__(
            nd.make_norm("batch", dims, inputs),
            nn.ReLU(inplace=True),
            plain_conv(dims, inputs, outputs, kernel, bias=bias, dilation=dilation),
        )


class DenseBlock(nn.Module):
    """Layers 1x1 (four growths) and 3x3 (one growth), each fed with the block's input and all layers before."""

    def __init__(self, dims: int, inputs: int, layers: int, growth: int, dilation: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                PreConv(dims, inputs + i * growth, 4 * growth, 1),
                PreConv(dims, 4 * growth, growth, 3, dilation),
            )
            for i in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class DenseNet(nn.Module):
    """forward: (B, C, *S) -> features of the four blocks, finest first, the last with norm and ReLU."""

    def __init__(
        self, dims: int, in_channels: int, name: str = "densenet121", output_stride: int = 32
    ) -> None:
        super().__init__()
        if name not in BLOCKS:
            raise ValueError(f"no backbone {name!r}; there are {', '.join(BLOCKS)}")
        blocks, width, growth = BLOCKS[name]
        self.entry = nn.Sequential(
            ConvNormAct(dims, in_channels, width, 7, stride=2), nd.MAX_POOL[dims](3, 2, 1)
        )
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        channels: list[int] = []
        strides: list[int] = []
        stride, dilation = 4, 1
        for number, count in enumerate(blocks):
            if number:
                pooled = stride < output_stride
                stride, dilation = (stride * 2, dilation) if pooled else (stride, dilation * 2)
                self.transitions.append(transition(dims, width, pooled))
                width //= 2
            self.blocks.append(DenseBlock(dims, width, count, growth, dilation))
            width += count * growth
            channels.append(width)
            strides.append(stride)
        self.last = nn.Sequential(nd.make_norm("batch", dims, width), nn.ReLU(inplace=True))
        self.channels: Sequence[int] = tuple(channels)
        self.strides: Sequence[int] = tuple(strides)
        kaiming(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.entry(x)
        features = []
        for number, block in enumerate(self.blocks):
            x = block(self.transitions[number - 1](x) if number else x)
            features.append(x)
        features[-1] = self.last(features[-1].clone())
        return features


def transition(dims: int, width: int, pooled: bool) -> nn.Sequential:
    """1x1 to half the channels, and a mean over 2x2 unless the resolution is kept."""
    layers = PreConv(dims, width, width // 2, 1)
    if pooled:
        layers.append(nd.AVG_POOL[dims](2, 2))
    return layers
