"""ResNet. He, Zhang, Ren, Sun, CVPR 2016, arXiv:1512.03385, as segmentation networks use it.

Differs from the paper: n-D; the stride stands in the 3x3 convolution of a bottleneck ("v1.5"); stages may keep their
resolution by dilation instead of stride (arXiv:1606.00915), with a multi-grid in the last one (arXiv:1706.05587) or
a cycle of rates a stage (arXiv:1702.08502); the 7x7 stem may be three 3x3 convolutions ("deep").
Oracle: the published counts; MONAI 1.6 resnet18 and resnet50 with equal weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style
from medseg.zoo.layers.factorised import factorised_conv
from medseg.zoo.layers.initial import kaiming


@dataclass(frozen=True)
class Residual:
    """Shape of a ResNet. blocks: residual units of the four stages. width: channels of the first stage inside units.

    bottleneck: 1x1-3x3-1x1 units of four times the channels, else two 3x3. deep_stem: three 3x3 (width, width, twice
    the width) instead of 7x7. multi_grid: factors on the dilation of the last stage's units. cycles: a stage (2..5)
    -> dilation of its units, repeated; overrides what the output stride gives. groups: of the 3x3 in a bottleneck,
    widen: factor on its channels (ResNeXt, arXiv:1611.05431: 32 groups, widened by 2 for 32x4d, by 4 for 32x8d).
    factorised: the two 3x3 of a unit without bottleneck are split by axis (ERFNet's non-bottleneck-1D).
    """

    blocks: tuple[int, int, int, int]
    bottleneck: bool = True
    width: int = 64
    deep_stem: bool = False
    multi_grid: tuple[int, ...] = (1,)
    cycles: tuple[tuple[int, tuple[int, ...]], ...] = ()
    groups: int = 1
    widen: int = 1
    factorised: bool = False


class Unit(nn.Module):
    """A residual unit, basic or bottleneck; the shortcut is projected where shape changes."""

    def __init__(
        self, dims: int, inputs: int, inner: int, shape: Residual, stride: int, rates: tuple[int, int]
    ) -> None:
        super().__init__()
        dilation, after = rates  # of the convolution that may have the stride, and of one after it
        bare = Style("batch", "none")
        if shape.bottleneck:
            outputs, wide, groups = 4 * inner, shape.widen * inner, shape.groups
            self.path = nn.Sequential(
                ConvNormAct(dims, inputs, wide, 1),
                ConvNormAct(dims, wide, wide, 3, stride=stride, dilation=dilation, groups=groups),
                ConvNormAct(dims, wide, outputs, 1, bare),
            )
        elif shape.factorised:
            outputs = inner
            self.path = nn.Sequential(
                factorised_conv(dims, inputs, inner, stride, dilation),
                nd.make_activation("relu"),
                factorised_conv(dims, inner, outputs, 1, after),
            )
        else:
            outputs = inner
            self.path = nn.Sequential(
                ConvNormAct(dims, inputs, inner, 3, stride=stride, dilation=dilation),
                ConvNormAct(dims, inner, outputs, 3, bare, dilation=after),
            )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else ConvNormAct(dims, inputs, outputs, 1, bare, stride=stride)
        self.activation = nd.make_activation("relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.path(x) + self.shortcut(x))


class ResNet(nn.Module):
    """forward: (B, C, *S) -> features of stages 2..5 (strides 4, 8, 16, 32 or less), finest first.

    `stem(x)` gives what enters stage 2; `half(x)` the features at stride 2 before the pooling.
    """

    def __init__(self, dims: int, in_channels: int, shape: Residual, output_stride: int = 32) -> None:
        super().__init__()
        width = shape.width
        if shape.deep_stem:
            self.entry = nn.Sequential(
                ConvNormAct(dims, in_channels, width, 3, stride=2),
                ConvNormAct(dims, width, width, 3),
                ConvNormAct(dims, width, 2 * width, 3),
            )
        else:
            self.entry = nn.Sequential(ConvNormAct(dims, in_channels, width, 7, stride=2))
        self.half_channels = 2 * width if shape.deep_stem else width
        self.pool = nd.MAX_POOL[dims](3, 2, 1)
        self.stages = nn.ModuleList()
        self.strides: tuple[int, ...] = ()
        self.channels: tuple[int, ...] = ()
        inputs, stride, dilation = self.half_channels, 4, 1
        for number, count in enumerate(shape.blocks, start=2):
            step = 1 if number == 2 else 2
            before = dilation
            if step == 2 and stride >= output_stride:
                step, dilation = 1, dilation * 2
            stride *= step
            rates = dilations(number, count, before, dilation, shape)
            inner = width * 2 ** (number - 2)
            units = nn.Sequential()
            for i, rate in enumerate(rates):
                after = dilation if i == 0 and rate == before else rate
                units.append(Unit(dims, inputs, inner, shape, step if i == 0 else 1, (rate, after)))
                inputs = inner * 4 if shape.bottleneck else inner
            self.stages.append(units)
            self.strides, self.channels = (*self.strides, stride), (*self.channels, inputs)
        kaiming(self)

    def half(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, half_channels, *S/2)."""
        return self.entry(x)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.pool(self.half(x))
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def dilations(number: int, count: int, before: int, dilation: int, shape: Residual) -> Sequence[int]:
    """The dilation of each unit of stage `number`; the first unit of a dilated stage keeps that of the stage before."""
    cycle = dict(shape.cycles).get(number)
    if cycle is not None:
        return [cycle[i % len(cycle)] for i in range(count)]
    if number == 5 and len(shape.multi_grid) > 1:
        return [dilation * shape.multi_grid[i % len(shape.multi_grid)] for i in range(count)]
    return [before, *(dilation,) * (count - 1)]
