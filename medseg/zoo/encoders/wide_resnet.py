"""WRN-38. Wu, Shen, van den Hengel 2016, arXiv:1611.10080: fewer residual units, and much wider ones.

Seventeen pre-activation units of up to 4096 channels in six stages after one 3x3 convolution at full size; the last
two stages are bottlenecks with dropout before their last convolution. Seven features come out: the first
convolution and the six stages.
Differs from the paper: n-D; every 3x3 convolution of a dilated stage has the stage's rate, as in the public "A2"
weights (the paper's first unit of a stage still begins with the rate of the stage before).
Oracle: none installed; 105.1 M by the layers of the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.initial import kaiming

STAGES = ((128, 128), (256, 256), (512, 512), (512, 1024), (512, 1024, 2048), (1024, 2048, 4096))
"""Channels of the convolutions of a unit in stages 2 to 7 at the published width."""
UNITS = (3, 3, 6, 3, 1, 1)
DROPOUT = {6: 0.3, 7: 0.5}
FULL_WIDTH = 64


class PreUnit(nn.Module):
    """Identity-mapping residual unit: norm and ReLU come before each convolution (arXiv:1603.05027).

    channels: two for 3x3-3x3, three for 1x1-3x3-1x1. A projected shortcut starts after the first norm and ReLU.
    """

    def __init__(
        self, dims: int, inputs: int, channels: Sequence[int], stride: int, dilation: int, dropout: float
    ) -> None:
        super().__init__()
        kernels = (3, 3) if len(channels) == 2 else (1, 3, 1)
        self.first = nn.Sequential(nd.make_norm("batch", dims, inputs), nn.ReLU(inplace=True))
        self.path = nn.Sequential()
        before = inputs
        for i, (kernel, after) in enumerate(zip(kernels, channels, strict=True)):
            if i:
                self.path.extend([nd.make_norm("batch", dims, before), nn.ReLU(inplace=True)])
            if dropout and i == len(kernels) - 1:
                self.path.append(nn.Dropout(dropout))
            options = {"stride": 1 if i else stride, "dilation": dilation if kernel == 3 else 1}
            self.path.append(plain_conv(dims, before, after, kernel, bias=False, **options))
            before = after
        same = stride == 1 and inputs == before
        self.shortcut = None if same else plain_conv(dims, inputs, before, 1, bias=False, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        ready = self.first(x)
        return self.path(ready) + (x if self.shortcut is None else self.shortcut(ready))


class WideResNet(nn.Module):
    """forward: (B, C, *S) -> features of stages 1..7, finest first (strides 1, 2, 4, 8, then as `output_stride`).

    width: channels of the first convolution; the stages keep the published proportions to 64. units: residual units
    of stages 2..7. output_stride: 8 (stages 5 to 7 dilated by 2, 4, 4), 16 or 32. pools: whether stages 2 and 3
    halve by a max pooling ("A2") or by the stride of their first convolution ("A1"). last_norm: whether the last
    feature has passed a norm and ReLU.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        width: int = FULL_WIDTH,
        units: Sequence[int] = UNITS,
        output_stride: int = 8,
        pools: bool = True,
        last_norm: bool = True,
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is {output_stride}; it is 8, 16 or 32")
        self.entry = plain_conv(dims, in_channels, width, 3, bias=False)
        self.stages, self.pools = nn.ModuleList(), nn.ModuleList()
        channels, strides = [width], [1]
        stride, dilation = 1, 1
        for number, (wide, count) in enumerate(zip(STAGES, units, strict=True), start=2):
            inner = [max(c * width // FULL_WIDTH, 1) for c in wide]
            step = 2 if number < 7 and stride < output_stride else 1
            if number in (5, 6) and step == 1:
                dilation *= 2
            stride *= step
            pooled = pools and number < 4
            self.pools.append(nd.MAX_POOL[dims](3, 2, 1) if pooled else nn.Identity())
            stage = nn.Sequential()
            for i in range(count):
                first = step if i == 0 and not pooled else 1
                rate = DROPOUT.get(number, 0.0)
                stage.append(
                    PreUnit(dims, channels[-1] if i == 0 else inner[-1], inner, first, dilation, rate)
                )
            self.stages.append(stage)
            channels.append(inner[-1])
            strides.append(stride)
        last = (nd.make_norm("batch", dims, channels[-1]), nn.ReLU(inplace=True)) if last_norm else ()
        self.last = nn.Sequential(*last)
        self.channels, self.strides = tuple(channels), tuple(strides)
        kaiming(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.entry(x)
        features = [x]
        for pool, stage in zip(self.pools, self.stages, strict=True):
            x = stage(pool(x))
            features.append(x)
        features[-1] = self.last(features[-1])
        return features
