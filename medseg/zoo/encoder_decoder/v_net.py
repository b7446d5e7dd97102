"""V-Net. Milletari, Navab, Ahmadi, 3DV 2016, arXiv:1606.04797.

A U-shaped network of 5x5x5 convolutions in which every stage learns a residual function; 2x2x2 convolutions of
stride 2 replace pooling and their transposes go up. It is trained with a Dice loss whose denominator has squares
(`loss: {name: dice, squared: true}`).
Differs from the paper: batch norm after every convolution (the paper has none) and dropout on the deep stages and
skips, as in the public re-implementations; the number of convolutions a stage is theirs at size "paper" (1,1,2,3,2 down
and 2,2,1,1 up: 45.6 M weights, the count that is quoted for V-Net). Size "figure" has those drawn in the paper's
figure 2 (1,2,3,3,3 and 3,3,2,1), size "authors" those of the authors' released model (1,1,2,3,3 and 3,2,1,1). The image
is repeated to the first stage's width and cut where the two do not divide.
Oracle: MONAI 1.6 VNet, equal outputs with its weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style

PLAIN = Style("batch", "none", bias=False)


class ResidualStage(nn.Module):
    """n 5x5x5 convolutions with norm and activation; the stage's input is added before a last activation."""

    def __init__(self, dims: int, channels: int, convs: int, style: Style) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(ConvNormAct(dims, channels, channels, 5, style) for _ in range(convs)))
        self.activation = nd.make_activation(style.activation, channels)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.activation(self.convs(x) + residual)


class Entry(nn.Module):
    """The first stage: one convolution, to which the image is added channel by channel."""

    def __init__(self, dims: int, inputs: int, outputs: int, style: Style) -> None:
        super().__init__()
        self.conv = ConvNormAct(dims, inputs, outputs, 5, PLAIN)
        self.activation = nd.make_activation(style.activation, outputs)
        self.repeats = -(-outputs // inputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        image = x.repeat(1, self.repeats, *(1,) * (x.ndim - 2))[:, : out.shape[1]]
        return self.activation(out + image)


class Down(nn.Module):
    """Convolution of stride 2 that doubles the channels, then a residual stage."""

    def __init__(self, dims: int, inputs: int, convs: int, dropout: float, style: Style) -> None:
        super().__init__()
        self.down = ConvNormAct(dims, inputs, 2 * inputs, 2, style, stride=2, padding=0)
        self.dropout = nd.DROPOUT[dims](dropout)
        self.stage = ResidualStage(dims, 2 * inputs, convs, style)

    def forward(self, x: Tensor) -> Tensor:
        down = self.down(x)
        return self.stage(self.dropout(down), down)


class Up(nn.Module):
    """Transposed convolution, concatenated with the skip, then a residual stage of `outputs` channels."""

    def __init__(
        self, dims: int, inputs: int, outputs: int, convs: int, dropouts: tuple[float, float], style: Style
    ) -> None:
        super().__init__()
        self.dropout = nd.DROPOUT[dims](dropouts[0])
        self.skip_dropout = nd.DROPOUT[dims](dropouts[1])
        self.up = nn.Sequential(
            nd.CONV_TRANSPOSE[dims](inputs, outputs // 2, 2, 2),
            nd.make_norm("batch", dims, outputs // 2),
            nd.make_activation(style.activation, outputs // 2),
        )
        self.stage = ResidualStage(dims, outputs, convs, style)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = torch.cat([self.up(self.dropout(x)), self.skip_dropout(skip)], dim=1)
        return self.stage(x, x)


class VNet(nn.Module):
    """V-Net on (B, in_channels, *S) -> logits (B, classes, *S).

    width: channels of the first stage. convs: convolutions a stage, (five down, four up). dropout: rate on the two
    deepest stages of either side and on all skips. activation: prelu (as published), elu, relu.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        width: int = 16,
        convs: Sequence[Sequence[int]] = ((1, 1, 2, 3, 2), (2, 2, 1, 1)),
        dropout: float = 0.5,
        activation: str = "prelu",
    ) -> None:
        super().__init__()
        down, up = convs
        if len(down) != len(up) + 1:
            raise ValueError(f"convs has {len(down)} stages down and {len(up)} up; there is one more down")
        depth = len(up)
        self.divisor = (2**depth,) * dims
        if down[0] != 1:
            raise ValueError(f"the first stage has one convolution, got {down[0]}")
        style = Style("batch", activation, bias=False)
        rates = [dropout if i >= depth - 2 else 0.0 for i in range(depth)]
        self.entry = Entry(dims, in_channels, width, style)
        self.down = nn.ModuleList(
            Down(dims, width * 2**i, down[i + 1], rates[i], style) for i in range(depth)
        )
        self.up = nn.ModuleList()
        inputs = width * 2**depth
        for i in reversed(range(depth)):
            outputs = width * 2 ** (i + 1)
            self.up.append(Up(dims, inputs, outputs, up[depth - 1 - i], (rates[i], dropout), style))
            inputs = outputs
        self.head = nn.Sequential(
            ConvNormAct(dims, inputs, classes, 5, style),
            nd.CONV[dims](classes, classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        skips = [x]
        for stage in self.down:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for stage in self.up:
            x = stage(x, skips.pop())
        return self.head(x)
