"""DeepLab (v1), LargeFOV. Chen, Papandreou, Kokkinos, Murphy, Yuille, ICLR 2015, arXiv:1412.7062.

VGG-16 whose last two poolings no longer shrink, with dilated ("atrous") convolutions behind them, gives scores at an
eighth of the image instead of a thirty-second; the first fully connected layer becomes a 3x3 convolution of dilation
12 with a large field of view and few weights. Scores are brought up bilinearly; a dense CRF may sharpen them.
Differs from the paper: the CRF is not part of the network; the first three poolings are 2x2 where the authors' have
3x3 windows; the 3x3 mean pooling that their network has before fc6 and the paper does not mention is left out.
Volumes use 3D layers; on maps of 12 voxels a side or less, as of 96^3, a dilation of 12 reads padding beside its own
place.
Oracle: none kept; counted by its layers, 20.5 M with 21 classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from medseg.zoo.encoders.vgg import VGG, VGG16, WIDTHS
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.heads import BackboneNet, OnLast
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.large_fov import large_fov


class DeepLabV1(BackboneNet):
    """DeepLab-LargeFOV on (B, in_channels, *S) -> logits (B, classes, *S)."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = WIDTHS,
        hidden: int = 1024,
    ) -> None:
        encoder = VGG(dims, in_channels, widths, VGG16, output_stride=8)
        head = nn.Sequential(large_fov(dims, widths[-1], hidden), plain_conv(dims, hidden, classes, 1))
        super().__init__(dims, encoder, OnLast(head), divisor=8)
        kaiming(self)
