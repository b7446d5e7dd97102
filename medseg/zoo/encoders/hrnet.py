"""HRNet. Wang et al., TPAMI 2020, arXiv:1908.07919: streams of several resolutions side by side that keep exchanging.

Differs from the paper: n-D. Oracle: the published 65.8 M of HRNetV2-W48 with its segmentation head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.resnet import Residual, Unit
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style
from medseg.zoo.layers.initial import kaiming

BARE = Style("batch", "none")
BASIC = Residual((1, 1, 1, 1), bottleneck=False)
BOTTLENECK = Residual((1, 1, 1, 1))


class Exchange(nn.Module):
    """Every stream gets the sum of all: 1x1 and upsampling from coarser ones, strided 3x3 chains from finer ones."""

    def __init__(self, dims: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.ModuleList(_path(dims, widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        mixed = []
        for target, paths in enumerate(self.paths):
            size = streams[target].shape[2:]
            parts = [nd.resize(path(x), size) for path, x in zip(paths, streams, strict=True)]
            mixed.append(torch.relu(torch.stack(parts).sum(dim=0)))
        return mixed


def _path(dims: int, widths: Sequence[int], source: int, target: int) -> nn.Module:
    """From stream `source` to stream `target`, before any upsampling."""
    if source == target:
        return nn.Identity()
    if source > target:
        return ConvNormAct(dims, widths[source], widths[target], 1, BARE)
    steps = nn.Sequential()
    for step in range(target - source):
        last = step == target - source - 1
        outputs = widths[target] if last else widths[source]
        steps.append(ConvNormAct(dims, widths[source], outputs, 3, BARE if last else Style(), stride=2))
    return steps


class Module(nn.Module):
    """Four basic units on each stream, then an exchange."""

    def __init__(self, dims: int, widths: Sequence[int], units: int) -> None:
        super().__init__()
        self.streams = nn.ModuleList(
            nn.Sequential(*(Unit(dims, w, w, BASIC, 1, (1, 1)) for _ in range(units))) for w in widths
        )
        self.exchange = Exchange(dims, widths)

    def forward(self, streams: list[Tensor]) -> list[Tensor]:
        return self.exchange([stream(x) for stream, x in zip(self.streams, streams, strict=True)])


class HRNet(nn.Module):
    """forward: (B, C, *S) -> four streams of width, 2, 4, 8 times width at strides 4, 8, 16, 32.

    modules: exchanges in stages 2, 3, 4. units: basic units between exchanges. stem: channels of the two first
    convolutions.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        width: int = 48,
        modules: Sequence[int] = (1, 4, 3),
        units: int = 4,
        stem: int = 64,
    ) -> None:
        super().__init__()
        self.channels = tuple(width * 2**i for i in range(4))
        self.strides = (4, 8, 16, 32)
        self.stem = nn.Sequential(
            ConvNormAct(dims, in_channels, stem, 3, stride=2), ConvNormAct(dims, stem, stem, 3, stride=2)
        )
        first = nn.Sequential()
        inputs = stem
        for _ in range(units):
            first.append(Unit(dims, inputs, stem, BOTTLENECK, 1, (1, 1)))
            inputs = 4 * stem
        self.first = first
        self.widen = nn.ModuleList(
            [
                ConvNormAct(dims, inputs, width, 3),
                ConvNormAct(dims, inputs, 2 * width, 3, stride=2),
                ConvNormAct(dims, 2 * width, 4 * width, 3, stride=2),
                ConvNormAct(dims, 4 * width, 8 * width, 3, stride=2),
            ]
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(Module(dims, self.channels[: 2 + i], units) for _ in range(count)))
            for i, count in enumerate(modules)
        )
        kaiming(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.first(self.stem(x))
        streams = self.stages[0]([self.widen[0](x), self.widen[1](x)])
        for number, stage in enumerate(self.stages[1:], start=2):
            streams = stage([*streams, self.widen[number](streams[-1])])
        return streams
