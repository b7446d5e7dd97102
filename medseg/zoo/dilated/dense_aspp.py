"""DenseASPP. Yang, Yu, Zhang, Li, Yang, CVPR 2018, doi:10.1109/CVPR.2018.00388.

Dilated layers of rates 3, 6, 12, 18, 24 stacked densely: each sees the features and all layers before it, so that
combinations of rates cover a large range of scales densely, and no large rate meets raw features alone. The backbone
is a DenseNet at an eighth of the image.
Differs from the paper: the head's norms keep torch's momentum of 0.1, the authors' have 0.0003. The widths, the 1x1
after the backbone that halves its channels and the norm behind it are those of the authors' code. Volumes use 3D
layers; 96^3 gives a map of 12 voxels a side, on which a rate of 12 and more reads padding beside its own place.
Oracle: none kept; counted in the authors' code, 8.28 M (DenseNet-121) and 35.40 M (DenseNet-161) with 19 classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.densenet import DenseNet, PreConv
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.heads import BackboneNet, OnLast


class DenseASPPHead(nn.Module):
    """Features behind a norm and ReLU (B, C, *s) -> logits (B, K, *s).

    widths: channels of the 1x1 and of the dilated 3x3 of each layer. The first layer needs no norm before its 1x1.
    """

    def __init__(
        self,
        dims: int,
        inputs: int,
        classes: int,
        rates: Sequence[int],
        widths: tuple[int, int],
        dropout: float,
    ) -> None:
        super().__init__()
        inner, growth = widths
        self.layers = nn.ModuleList(
            nn.Sequential(
                PreConv(dims, inputs + i * growth, inner, 1, bias=True)
                if i
                else plain_conv(dims, inputs, inner, 1),
                PreConv(dims, inner, growth, 3, rate, bias=True),
                nd.DROPOUT[dims](dropout),
            )
            for i, rate in enumerate(rates)
        )
        self.classify = nn.Sequential(
            nd.DROPOUT[dims](dropout), plain_conv(dims, inputs + len(rates) * growth, classes, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([layer(x), x], dim=1)
        return self.classify(x)


class DenseASPP(BackboneNet):
    """DenseASPP on (B, in_channels, *S) -> logits (B, classes, *S).

    backbone: a DenseNet. widths: of each dilated layer's 1x1 and 3x3.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "densenet121",
        rates: Sequence[int] = (3, 6, 12, 18, 24),
        widths: tuple[int, int] = (128, 64),
        dropout: float = 0.1,
    ) -> None:
        encoder = DenseNet(dims, in_channels, backbone, 8)
        deepest = encoder.channels[-1]
        head = nn.Sequential(
            ConvNormAct(dims, deepest, deepest // 2, 1),
            DenseASPPHead(dims, deepest // 2, classes, rates, widths, dropout),
        )
        super().__init__(dims, encoder, OnLast(head), divisor=8)
