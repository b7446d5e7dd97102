"""CBAM-U-Net: the convolutional block attention module (Woo et al., ECCV 2018, arXiv:1807.06521) in a U-Net.

CBAM weighs channels by their mean and their maximum over space, and then places by the mean and the maximum over
channels, so that a network learns what and where to look. Here one follows the two convolutions of each stage, down
and up.
Differs from the paper: the paper puts the module into classification and detection networks; the U-Net around it is
arXiv:1505.04597 with batch norm and padded convolutions. In volumes the spatial gate's kernel is 7x7x7.
Oracle: none in MONAI; the gates are compared with the paper's equations 2 and 3 written out.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import DoubleConv, Style
from medseg.zoo.layers.gates import CBAM
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.u_shape import UShape


class CBAMUNet(nn.Module):
    """U-Net with channel and place gates on (B, in_channels, *S) -> logits (B, classes, *S)."""

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
            return nn.Sequential(DoubleConv(dims, inputs, outputs, style), CBAM(dims, outputs, reduction))

        self.body = UShape(dims, in_channels, features, stage)
        self.head = nd.CONV[dims](features[0], classes, 1)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))
