"""Wide ResNet FCN. Wu, Shen, van den Hengel 2016, arXiv:1611.10080.

Very deep residual networks act like ensembles of shallower ones, so depth beyond what trains end to end is wasted:
WRN-38 has 17 wide units in place of 100 or more narrow ones. Its dilated form at an eighth of the image carries a
classifier of two 3x3 convolutions of dilation 12 and no decoder at all.
Differs from the paper: the loss is the pipeline's (the authors train on hard pixels, those below a probability of
0.6). In volumes the stages at full and half size are expensive: take a smaller `width`; and a smaller `rate` for
patches of 96^3 and less, whose map has 12 voxels a side.
Oracle: none installed; counted by the layers of the authors' code, 124.0 M with 21 classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from medseg.zoo.encoders.wide_resnet import FULL_WIDTH, UNITS, WideResNet
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.heads import BackboneNet, OnLast


class WideResNetFCN(BackboneNet):
    """WRN-38 with a classifier of two convolutions: (B, in_channels, *S) -> logits (B, classes, *S).

    width: channels of the first convolution, all others in proportion. units: residual units of stages 2..7.
    rate: dilation of the classifier. pools: the paper's downsampling ("A2") or the released
    networks' by strides alone ("A1").
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        width: int = FULL_WIDTH,
        units: Sequence[int] = UNITS,
        rate: int = 12,
        pools: bool = True,
    ) -> None:
        inner = 8 * width
        encoder = WideResNet(dims, in_channels, width, units, 8, pools)
        head = nn.Sequential(
            ConvNormAct(dims, encoder.channels[-1], inner, 3, dilation=rate),
            plain_conv(dims, inner, classes, 3, dilation=rate),
        )
        super().__init__(dims, encoder, OnLast(head), divisor=8)
