"""VGG. Simonyan, Zisserman, ICLR 2015, arXiv:1409.1556: stages of 3x3 convolutions, each ended by a max pooling.

Differs from the paper: n-D; a norm is an option; with an output stride below 32 the last poolings keep the
resolution (3x3, stride 1) and the convolutions after them are dilated, as in arXiv:1412.7062.
Oracle: the published 14,714,688 weights of VGG-16's convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style

VGG16 = (2, 2, 3, 3, 3)
WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """The convolutions of VGG. forward: (B, C, *S) -> the pooled features of the five stages, finest first.

    widths: channels of the stages. convs: convolutions a stage. output_stride: 32, 16 or 8.
    keep_pools: whether poolings that no longer shrink stay as 3x3 of stride 1.
    `channels` and `strides` describe what forward returns.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        widths: Sequence[int] = WIDTHS,
        convs: Sequence[int] = VGG16,
        norm: str = "none",
        output_stride: int = 32,
        keep_pools: bool = True,
    ) -> None:
        super().__init__()
        self.channels = tuple(widths)
        self.strides: tuple[int, ...] = ()
        style = Style(norm, bias=True)
        self.stages = nn.ModuleList()
        self.pools = nn.ModuleList()
        inputs, stride, dilation = in_channels, 1, 1
        for width, count in zip(widths, convs, strict=True):
            stage = nn.Sequential()
            for _ in range(count):
                stage.append(ConvNormAct(dims, inputs, width, 3, style, dilation=dilation))
                inputs = width
            self.stages.append(stage)
            if stride < output_stride:
                stride *= 2
                self.pools.append(nd.MAX_POOL[dims](2))
            else:
                dilation *= 2
                self.pools.append(nd.MAX_POOL[dims](3, 1, 1) if keep_pools else nn.Identity())
            self.strides = (*self.strides, stride)
        self.next_dilation = dilation

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage, pool in zip(self.stages, self.pools, strict=True):
            x = pool(stage(x))
            features.append(x)
        return features
