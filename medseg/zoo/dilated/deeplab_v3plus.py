"""DeepLab v3+. Chen, Zhu, Papandreou, Schroff, Adam, ECCV 2018, arXiv:1802.02611.

DeepLab v3 becomes the encoder of a small decoder: its features are brought from a sixteenth to a quarter of the
image, joined with features of that resolution reduced to 48 channels, refined by two separable 3x3 convolutions and
brought to full size, which sharpens boundaries. The backbone is an aligned Xception-65.
Differs from the paper: none; ResNets are an option (the authors' code drops a tenth of the pyramid's output in
training). Volumes use 3D layers; smaller `rates` suit small patches, as in DeepLab v3.
Oracle: none installed; the 54.17 G multiplications and additions that the authors' model zoo gives for 513 x 513 pixels and
21 classes (it counts no weights); 41.04 M weights in segmentation-models-pytorch with timm's Xception-65.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.encoders.xception import Xception
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.heads import BackboneNet
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.pooling import ASPP, SeparableConv

XCEPTIONS = {
    "xception65": {"middle": 16},
    "xception41": {"middle": 8},
    "xception-tiny": {"middle": 1, "widths": (4, 4, 8, 8, 8, 8, 8, 16)},
}


class Decoder(nn.Module):
    """[low-level features, ..., deep features] -> logits on the low-level grid."""

    def __init__(
        self, dims: int, low: int, deep: int, classes: int, channels: int, rates: Sequence[int]
    ) -> None:
        super().__init__()
        reduced = 48 * channels // 256
        self.aspp = ASPP(dims, deep, channels, rates, separable=True)
        self.reduce = ConvNormAct(dims, low, reduced, 1)
        self.refine = nn.Sequential(
            SeparableConv(dims, channels + reduced, channels),
            SeparableConv(dims, channels, channels),
            plain_conv(dims, channels, classes, 1),
        )
        kaiming(self)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        low = self.reduce(features[0])
        deep = nd.resize(self.aspp(features[-1]), low.shape[2:])
        return self.refine(torch.cat([deep, low], dim=1))


class DeepLabV3Plus(BackboneNet):
    """DeepLab v3+ on (B, in_channels, *S) -> logits (B, classes, *S).

    backbone: xception65, xception41 or a ResNet of the encoder table. output_stride: of the encoder, 16 or 8, which
    doubles the rates. rates: dilations at stride 16.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "xception65",
        output_stride: int = 16,
        channels: int = 256,
        rates: Sequence[int] = (6, 12, 18),
    ) -> None:
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride is {output_stride}; it is 8 or 16")
        encoder: nn.Module
        if backbone in XCEPTIONS:
            encoder = Xception(dims, in_channels, output_stride=output_stride, **XCEPTIONS[backbone])  # type: ignore[arg-type]
        else:
            encoder = make_resnet(backbone, dims, in_channels, output_stride, multi_grid=(1, 2, 4))
        chosen = [rate * 16 // output_stride for rate in rates]
        head = Decoder(dims, encoder.channels[0], encoder.channels[-1], classes, channels, chosen)
        super().__init__(dims, encoder, head, divisor=output_stride)
