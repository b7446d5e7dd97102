"""DeepLab with an Inception front end for remote sensing. Chen et al., Measurement & Control Technology 37(11), 2018, url:http://ckjs.ijournals.cn.

Land cover in remote-sensing images comes in many sizes at once. DeepLab's front end, dense scores by dilation instead
of poolings, is kept, its VGG replaced by Inception modules: several kernel sizes beside each other behind 1x1
reductions see as far and in as many channels as plain convolutions with a fraction of their weights.
Differs from the paper: a reconstruction; only a survey's sentence on the DeepLab front end with Inception blocks was at
hand. Not confirmed: which Inception network and which DeepLab; here GoogLeNet with batch norm at output stride 8 and
the LargeFOV head of DeepLab v1, without auxiliary classifiers. Volumes use 3D layers.
Oracle: none kept; the encoder by the published counts of GoogLeNet.
"""

from __future__ import annotations

from torch import nn

from medseg.zoo.encoders.inception import make_googlenet
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.heads import BackboneNet, OnLast
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.large_fov import large_fov


class DeepLabInception(BackboneNet):
    """On (B, in_channels, *S) -> logits (B, classes, *S).

    backbone: googlenet, googlenet-small or googlenet-tiny. output_stride: 8 as DeepLab's front end, 16 or 32. hidden:
    channels of the layers with the large field of view.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "googlenet",
        output_stride: int = 8,
        hidden: int = 1024,
    ) -> None:
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is {output_stride}; it is 8, 16 or 32")
        encoder = make_googlenet(backbone, dims, in_channels, output_stride)
        head = nn.Sequential(
            large_fov(dims, encoder.channels[-1], hidden), plain_conv(dims, hidden, classes, 1)
        )
        kaiming(head)
        super().__init__(dims, encoder, OnLast(head), divisor=output_stride)
