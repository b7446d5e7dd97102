"""ResNeSt with a DeepLab v3 head. Zhang, Wu, Zhang et al., CVPRW 2022, arXiv:2004.08955.

Each 3x3 convolution of a ResNet is made in two splits, and for every channel a softmax, decided by the mean of both,
chooses how much of either passes: attention across feature maps inside the block, at the cost of a ResNet of the same
depth. Downsampling is by mean pooling. For segmentation it runs at an eighth of the image under DeepLab v3's head.
Differs from the paper: no DropBlock; the auxiliary head's weight 0.2 and the 3x3 convolution after the atrous pyramid
are those of the authors' code, whose dropout drops whole channels. Volumes use 3D layers; 96^3 gives a map of 12
voxels a side, on which rates of 12 and more read padding beside their own place: smaller `rates` suit small patches.
Oracle: the authors' backbone, plain and dilated, gave the same features from the same weights; timm's resnest14d where
timm is installed; the published counts of the four depths.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from medseg.zoo.encoders.resnest import make_resnest
from medseg.zoo.layers.heads import BackboneNet, FCNHead, OnLast
from medseg.zoo.layers.pooling import ASPP


class ResNeStDeepLab(BackboneNet):
    """ResNeSt on (B, in_channels, *S) -> logits (B, classes, *S).

    backbone: resnest50, -101, -200, -269 or a smaller one of `encoders/resnest.py`. rates: dilations of the atrous
    pyramid at an eighth of the image. channels: its width.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnest101",
        rates: Sequence[int] = (12, 24, 36),
        channels: int = 256,
    ) -> None:
        encoder = make_resnest(backbone, dims, in_channels, 8)
        head = nn.Sequential(
            ASPP(dims, encoder.channels[-1], channels, rates, dropout=0.5),
            FCNHead(dims, channels, classes, channels),
        )
        auxiliary = FCNHead(dims, encoder.channels[-2], classes, max(encoder.channels[-2] // 4, 1))
        super().__init__(dims, encoder, OnLast(head), auxiliary, 0.2, divisor=8)
