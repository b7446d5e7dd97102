"""GoogLeNet. Szegedy et al., CVPR 2015, arXiv:1409.4842: 1x1, 3x3, 5x5 convolutions and a pooling beside each other.

Differs from the paper: n-D; batch norm (arXiv:1502.03167) in place of local response norm is the default; the last
poolings may keep the resolution, with dilated modules behind them; the two auxiliary classifiers and the linear layer
are left out, for they belong to the classification of whole images.
Oracle: the published counts of Caffe's model (no norm) and of torchvision's (batch norm, its 5x5 are 3x3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style
from medseg.zoo.layers.initial import kaiming

Module = tuple[int, int, int, int, int, int]
"""Channels of an Inception module: 1x1, reduction to 3x3, 3x3, reduction to 5x5, 5x5, behind the pooling."""

GOOGLENET: tuple[tuple[Module, ...], ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
"""Modules 3a 3b, 4a to 4e, 5a 5b (table 1 of the paper)."""


@dataclass(frozen=True)
class Inceptions:
    """Shape of a GoogLeNet: widths of its three plain convolutions and modules of its stages at strides 8, 16, 32."""

    stem: tuple[int, int, int] = (64, 64, 192)
    stages: tuple[tuple[Module, ...], ...] = GOOGLENET


INCEPTIONS = {
    "googlenet": Inceptions(),
    "googlenet-small": Inceptions(
        (16, 16, 32), (((16, 12, 24, 4, 8, 8),), ((24, 16, 40, 6, 16, 16),) * 2, ((48, 24, 48, 8, 16, 16),))
    ),
    "googlenet-tiny": Inceptions(
        (4, 4, 8), (((4, 2, 4, 2, 2, 2),), ((4, 2, 8, 2, 2, 2),), ((8, 4, 8, 2, 4, 4),))
    ),
}


class InceptionModule(nn.Module):
    """(B, inputs, *s) -> (B, channels, *s): the four branches of figure 2b; `wide` taps in the widest."""

    def __init__(
        self, dims: int, inputs: int, widths: Module, style: Style, dilation: int = 1, wide: int = 5
    ) -> None:
        super().__init__()
        one, reduce3, three, reduce5, five, pooled = widths
        self.channels = one + three + five + pooled
        self.one = ConvNormAct(dims, inputs, one, 1, style)
        self.three = nn.Sequential(
            ConvNormAct(dims, inputs, reduce3, 1, style),
            ConvNormAct(dims, reduce3, three, 3, style, dilation=dilation),
        )
        self.five = nn.Sequential(
            ConvNormAct(dims, inputs, reduce5, 1, style),
            ConvNormAct(dims, reduce5, five, wide, style, dilation=dilation),
        )
        self.pooled = nn.Sequential(nd.MAX_POOL[dims](3, 1, 1), ConvNormAct(dims, inputs, pooled, 1, style))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pooled(x)], dim=1)


class GoogLeNet(nn.Module):
    """forward: (B, C, *S) -> features at strides 4, 8, 16, 32 (or less, by dilation), finest first.

    norm: batch, or none for the paper's form with local response norm. wide: taps of the widest branch, 5 or 3.
    `channels` and `strides` describe what forward returns.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        shape: Inceptions = INCEPTIONS["googlenet"],
        output_stride: int = 32,
        norm: str = "batch",
        wide: int = 5,
    ) -> None:
        super().__init__()
        style = Style(norm)
        first, second, third = shape.stem
        plain = norm == "none"
        self.entry = nn.Sequential(
            ConvNormAct(dims, in_channels, first, 7, style, stride=2),
            nd.MAX_POOL[dims](3, 2, 1),
            nn.LocalResponseNorm(5) if plain else nn.Identity(),
            ConvNormAct(dims, first, second, 1, style),
            ConvNormAct(dims, second, third, 3, style),
            nn.LocalResponseNorm(5) if plain else nn.Identity(),
        )
        self.pools, self.stages = nn.ModuleList(), nn.ModuleList()
        self.channels: tuple[int, ...] = (third,)
        self.strides: tuple[int, ...] = (4,)
        inputs, stride, dilation = third, 4, 1
        for modules in shape.stages:
            step = 2 if stride < output_stride else 1
            stride, dilation = stride * step, dilation * (2 // step)
            self.pools.append(nd.MAX_POOL[dims](3, step, 1))
            stage = nn.Sequential()
            for widths in modules:
                module = InceptionModule(dims, inputs, widths, style, dilation, wide)
                inputs = module.channels
                stage.append(module)
            self.stages.append(stage)
            self.channels, self.strides = (*self.channels, inputs), (*self.strides, stride)
        kaiming(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [self.entry(x)]
        for pool, stage in zip(self.pools, self.stages, strict=True):
            features.append(stage(pool(features[-1])))
        return features


def make_googlenet(name: str, dims: int, in_channels: int, output_stride: int = 32) -> GoogLeNet:
    """A GoogLeNet of the table by name."""
    if name not in INCEPTIONS:
        raise ValueError(f"no backbone {name!r}; there are {', '.join(INCEPTIONS)}")
    return GoogLeNet(dims, in_channels, INCEPTIONS[name], output_stride)
