"""PSPNet. Zhao, Shi, Qi, Wang, Jia, CVPR 2017, arXiv:1612.01105.

A dilated ResNet keeps its features at an eighth of the image; pyramid pooling adds to each position the means of the
whole, a half, a third and a sixth of the scene, so that local evidence is read in its global setting. An auxiliary
head on the fourth stage, with 0.4 of the loss, helps the deep network train.
Differs from the paper: none; volumes use 3D layers and pool to 1, 8, 27 and 216 parts.
Oracle: parameter counts of the authors' PyTorch code (46.6 M with ResNet-50, 65.6 M with ResNet-101).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers.heads import BackboneNet, FCNHead, OnLast
from medseg.zoo.layers.pooling import PyramidPooling

RATES = ((4, (2,)), (5, (4,)))
"""Dilation of all units of a ResNet's stages 4 and 5, the first ones included, as in the authors' code."""


class PSPNet(BackboneNet):
    """PSPNet on (B, in_channels, *S) -> logits (B, classes, *S).

    backbone: a ResNet of the encoder table. channels: width of the head; the pyramid's branches have the backbone's
    channels divided by the number of bins. bins: parts an axis.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        encoder = make_resnet(backbone, dims, in_channels, 8, deep_stem=True, cycles=RATES)
        deepest = encoder.channels[-1]
        pyramid = PyramidPooling(dims, deepest, max(deepest // len(bins), 1), bins)
        head = nn.Sequential(pyramid, FCNHead(dims, pyramid.channels, classes, channels, dropout))
        auxiliary = FCNHead(dims, encoder.channels[-2], classes, max(channels // 2, 1), dropout)
        super().__init__(dims, encoder, OnLast(head), auxiliary, 0.4, divisor=8)
