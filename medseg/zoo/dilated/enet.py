"""ENet. Paszke, Chaurasia, Kim, Culurciello, 2016, arXiv:1606.02147.

A network for real time: it shrinks the image at once, keeps a long encoder of thin residual bottlenecks (plain,
dilated 2 to 16, and 5x1 with 1x5) at an eighth of the image, and a short decoder that unpools with the encoder's
places. Slopes are learned (PReLU); each branch is dropped by whole channels. Inside, every bottleneck has a quarter of
the channels that leave it, as in the authors' code.
Differs from the paper: the loss is the pipeline's (the authors weigh classes by their rarity and train the encoder
first). In volumes the asymmetric convolution has three factors.
Oracle: none kept; the layers of its table 1 add up to 0.36 M weights, the paper rounds to 0.37 M.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.unpool import pool_with_places, unpool

ENCODER, DECODER, BARE = Style("batch", "prelu"), Style("batch", "relu"), Style("batch", "none")


def asymmetric(dims: int, channels: int, style: Style) -> nn.Sequential:
    """5-long convolutions along one axis after the other; norm and activation after the last."""
    kernels = [tuple(5 if a == axis else 1 for a in range(dims)) for axis in range(dims)]
    convs = [
        ConvNormAct(dims, channels, channels, k, Style("none", "none", bias=False)) for k in kernels[:-1]
    ]
    return nn.Sequential(*convs, ConvNormAct(dims, channels, channels, kernels[-1], style))


class Bottleneck(nn.Module):
    """x + dropout(1x1, middle, 1x1), then the activation. kind: an integer is the dilation, "asymmetric" the 5x1."""

    def __init__(
        self, dims: int, channels: int, kind: int | str, dropout: float, style: Style = ENCODER
    ) -> None:
        super().__init__()
        inner = max(channels // 4, 1)
        middle: nn.Module
        if isinstance(kind, int):
            middle = ConvNormAct(dims, inner, inner, 3, style, dilation=kind)
        else:
            middle = asymmetric(dims, inner, style)
        self.branch = nn.Sequential(
            ConvNormAct(dims, channels, inner, 1, style),
            middle,
            ConvNormAct(dims, inner, channels, 1, BARE),
            nd.DROPOUT[dims](dropout),
        )
        self.activation = nd.make_activation(style.activation, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.branch(x))


class Down(nn.Module):
    """Halves the size: max pooling with places and zero channels beside a bottleneck that starts with stride 2."""

    def __init__(self, dims: int, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        inner = max(outputs // 4, 1)
        self.extra = outputs - inputs
        self.branch = nn.Sequential(
            ConvNormAct(dims, inputs, inner, 2, ENCODER, stride=2, padding=0),
            ConvNormAct(dims, inner, inner, 3, ENCODER),
            ConvNormAct(dims, inner, outputs, 1, BARE),
            nd.DROPOUT[dims](dropout),
        )
        self.activation = nd.make_activation("prelu", outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, places = pool_with_places(x)
        pooled = F.pad(pooled, (0, 0) * (x.ndim - 2) + (0, self.extra))
        return self.activation(pooled + self.branch(x)), places


class Up(nn.Module):
    """Doubles the size: 1x1 and unpooling beside a bottleneck with a transposed 3x3 of stride 2."""

    def __init__(self, dims: int, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        inner = max(outputs // 4, 1)
        self.main = ConvNormAct(dims, inputs, outputs, 1, BARE)
        self.branch = nn.Sequential(
            ConvNormAct(dims, inputs, inner, 1, DECODER),
            nd.CONV_TRANSPOSE[dims](inner, inner, 3, 2, padding=1, output_padding=1, bias=False),
            nd.make_norm("batch", dims, inner),
            nn.ReLU(inplace=True),
            ConvNormAct(dims, inner, outputs, 1, BARE),
            nd.DROPOUT[dims](dropout),
        )

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        size = tuple(2 * n for n in x.shape[2:])
        return torch.relu(unpool(self.main(x), places, size) + self.branch(x))


class ENet(nn.Module):
    """ENet on (B, in_channels, *S) -> logits (B, classes, *S). widths: of the first three stages."""

    def __init__(
        self, dims: int, in_channels: int, classes: int, widths: Sequence[int] = (16, 64, 128)
    ) -> None:
        super().__init__()
        self.divisor = (8,) * dims
        first, second, third = widths
        self.initial = ConvNormAct(
            dims, in_channels, max(first - in_channels, 1), 3, Style("none", "none", bias=True), stride=2
        )
        entered = max(first - in_channels, 1) + in_channels
        self.entry = nn.Sequential(nd.make_norm("batch", dims, entered), nd.make_activation("prelu", entered))
        self.pool = nd.MAX_POOL[dims](2)
        self.down1 = Down(dims, entered, second, 0.01)
        self.stage1 = nn.Sequential(*(Bottleneck(dims, second, 1, 0.01) for _ in range(4)))
        self.down2 = Down(dims, second, third, 0.1)
        kinds = (1, 2, "asymmetric", 4, 1, 8, "asymmetric", 16)
        self.stage23 = nn.Sequential(
            *(Bottleneck(dims, third, kind, 0.1) for _ in range(2) for kind in kinds)
        )
        self.up2 = Up(dims, third, second, 0.1)
        self.stage4 = nn.Sequential(*(Bottleneck(dims, second, 1, 0.1, DECODER) for _ in range(2)))
        self.up1 = Up(dims, second, entered, 0.1)
        self.stage5 = Bottleneck(dims, entered, 1, 0.1, DECODER)
        self.head = nd.CONV_TRANSPOSE[dims](entered, classes, 2, 2)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(torch.cat([self.initial(x), self.pool(x)], dim=1))
        x, places1 = self.down1(x)
        x, places2 = self.down2(self.stage1(x))
        x = self.up2(self.stage23(x), places2)
        x = self.up1(self.stage4(x), places1)
        return self.head(self.stage5(x))
