"""ResNeSt. Zhang et al. 2020, arXiv:2004.08955: ResNets whose 3x3 convolutions are split attention.

The stem is three 3x3 convolutions; resolution is halved by 3x3 mean pooling behind the split attention and by mean
pooling in the shortcut, never by a strided convolution; where a stage is dilated instead, its first unit still pools.
Differs from the paper: n-D; no DropBlock. Oracle: the published counts of the 50, 101, 200 and 269 layers; the
authors' features from the same weights; timm's resnest14d where timm is installed.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from medseg.core.errors import did_you_mean
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.split_attention import SplitAttention

BARE = Style("batch", "none")
ZERO_PAD = {2: nn.ZeroPad2d, 3: nn.ZeroPad3d}


@dataclass(frozen=True)
class Nest:
    """Shape of a ResNeSt. blocks: units of the four stages. stem: channels of the first convolutions (the last has
    twice as many). width: channels inside the units of the first stage. radix, cardinality: of split attention."""

    blocks: tuple[int, int, int, int]
    stem: int = 64
    width: int = 64
    radix: int = 2
    cardinality: int = 1


RESNESTS = {
    "resnest14": Nest((1, 1, 1, 1), stem=32),
    "resnest26": Nest((2, 2, 2, 2), stem=32),
    "resnest50": Nest((3, 4, 6, 3), stem=32),
    "resnest101": Nest((3, 4, 23, 3)),
    "resnest200": Nest((3, 24, 36, 3)),
    "resnest269": Nest((3, 30, 48, 8)),
    "resnest-small": Nest((1, 1, 1, 1), stem=8, width=16),
    "resnest-tiny": Nest((1, 1, 2, 2), stem=4, width=4),
}


class NestUnit(nn.Module):
    """1x1, split attention, perhaps mean pooling, 1x1 to four times the channels.

    pool: stride of the 3x3 mean pooling; None: there is none.
    """

    def __init__(
        self, dims: int, inputs: int, inner: int, shape: Nest, pool: int | None = None, dilation: int = 1
    ) -> None:
        super().__init__()
        outputs, wide = 4 * inner, inner * shape.cardinality
        self.path = nn.Sequential(
            ConvNormAct(dims, inputs, wide, 1),
            SplitAttention(dims, wide, shape.radix, shape.cardinality, dilation=dilation),
        )
        if pool is not None:
            # Padded apart: torch's 3D pooling refuses maps narrower than its window, however padded.
            self.path.append(nn.Sequential(ZERO_PAD[dims](1), nd.AVG_POOL[dims](3, pool)))
        self.path.append(ConvNormAct(dims, wide, outputs, 1, BARE))
        self.shortcut: nn.Module = nn.Identity()
        stride = pool or 1
        if stride > 1 or inputs != outputs:
            shrink = nd.AVG_POOL[dims](stride, stride, ceil_mode=True, count_include_pad=False)
            self.shortcut = nn.Sequential(shrink, ConvNormAct(dims, inputs, outputs, 1, BARE))
        self.activation = nd.make_activation("relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.path(x) + self.shortcut(x))


class ResNeSt(nn.Module):
    """forward: (B, C, *S) -> features of stages 2..5 (strides 4, 8, 16, 32 or less), finest first."""

    def __init__(self, dims: int, in_channels: int, shape: Nest, output_stride: int = 32) -> None:
        super().__init__()
        stem = shape.stem
        self.entry = nn.Sequential(
            ConvNormAct(dims, in_channels, stem, 3, stride=2),
            ConvNormAct(dims, stem, stem, 3),
            ConvNormAct(dims, stem, 2 * stem, 3),
            nd.MAX_POOL[dims](3, 2, 1),
        )
        self.stages = nn.ModuleList()
        self.strides: tuple[int, ...] = ()
        self.channels: tuple[int, ...] = ()
        inputs, stride, dilation = 2 * stem, 4, 1
        for number, count in enumerate(shape.blocks):
            step, before = (2 if number else 1), dilation
            if step == 2 and stride >= output_stride:
                step, dilation = 1, dilation * 2
            stride *= step
            inner = shape.width * 2**number
            units = nn.Sequential()
            for i in range(count):  # the first unit keeps the dilation of the stage before
                rate = before if i == 0 else dilation
                pool = step if i == 0 and number else None
                units.append(NestUnit(dims, inputs, inner, shape, pool, rate))
                inputs = 4 * inner
            self.stages.append(units)
            self.strides, self.channels = (*self.strides, stride), (*self.channels, inputs)
        kaiming(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.entry(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def make_resnest(name: str, dims: int, in_channels: int, output_stride: int = 32) -> ResNeSt:
    """A ResNeSt by name; ValueError lists the names there are."""
    if name not in RESNESTS:
        raise ValueError(
            f"no backbone {name!r}{did_you_mean(name, RESNESTS)} there are {', '.join(RESNESTS)}"
        )
    return ResNeSt(dims, in_channels, RESNESTS[name], output_stride)
