"""SE-U-Net: squeeze-and-excitation (Hu, Shen, Sun, CVPR 2018, arXiv:1709.01507) in every stage of a U-Net.

A squeeze-and-excitation block takes the mean of each channel over space, lets two fully connected layers decide how
much each channel matters in this image, and scales the channels by it. Here one follows the two convolutions of each
stage, down and up.
Differs from the paper: the paper puts the block into classification networks; the U-Net around it is
arXiv:1505.04597 with batch norm and padded convolutions. Reduction 16, never fewer than one hidden unit.
Oracle: MONAI 1.6 ChannelSELayer for the block, equal outputs with its weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import DoubleConv, Style
from medseg.zoo.layers.gates import SqueezeExcite
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.u_shape import UShape


class SEUNet(nn.Module):
    """U-Net with channel gates on (B, in_channels, *S) -> logits (B, classes, *S)."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        features: Sequence[int] = (64, 128, 256, 512, 1024),
        norm: str = "batch",
        reduction: int = 16,
    ) -> None:
        super().__init__()
        self.divisor = (2 ** (len(features) - 1),) * dims
        style = Style(norm)

        def stage(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(DoubleConv(dims, inputs, outputs, style), SqueezeExcite(outputs, reduction))

        self.body = UShape(dims, in_channels, features, stage)
        self.head = nd.CONV[dims](features[0], classes, 1)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))
