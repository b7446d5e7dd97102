"""LinkNet. Chaurasia, Culurciello, VCIP 2017, arXiv:1707.03718.

A ResNet-18 encoder: what enters each of its four stages is added (not concatenated) to what the matching decoder
block puts out, which passes lost resolution on at no cost in channels; a decoder block is a 1x1 convolution to a
quarter of the channels, a transposed 3x3 of stride 2, and a 1x1 convolution.
Differs from the paper: none with a ResNet; other backbones do not show what enters their first stage, and the last
sum is left out. Volumes use 3D layers.
Oracle: none installed; counted in the authors' form, 11.54 M with 20 classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from medseg.zoo.encoders.resnet import ResNet
from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct
from medseg.zoo.layers.initial import kaiming


def up_conv(dims: int, inputs: int, outputs: int) -> nn.Sequential:
    """Transposed 3x3 of stride 2 that doubles each axis, with norm and ReLU."""
    return nn.Sequential(
        nd.CONV_TRANSPOSE[dims](inputs, outputs, 3, 2, padding=1, output_padding=1, bias=False),
        nd.make_norm("batch", dims, outputs),
        nn.ReLU(inplace=True),
    )


class DecoderBlock(nn.Sequential):
    """1x1 to a quarter, up, 1x1 to `outputs`; without `up` the size stays."""

    def __init__(self, dims: int, inputs: int, outputs: int, up: bool) -> None:
        inner = max(inputs // 4, 1)
        middle = up_conv(dims, inner, inner) if up else ConvNormAct(dims, inner, inner, 3)
        super().__init__(ConvNormAct(dims, inputs, inner, 1), middle, ConvNormAct(dims, inner, outputs, 1))


class LinkNet(nn.Module):
    """LinkNet on (B, in_channels, *S) -> logits (B, classes, *S). backbone: a ResNet of the encoder table."""

    def __init__(self, dims: int, in_channels: int, classes: int, backbone: str = "resnet18") -> None:
        super().__init__()
        self.divisor = (32,) * dims
        self.encoder = make_resnet(backbone, dims, in_channels)
        channels = self.encoder.channels
        self.decoder = nn.ModuleList(
            DecoderBlock(
                dims, channels[i], channels[max(i - 1, 0)] if i else self.encoder.half_channels, i > 0
            )
            for i in reversed(range(len(channels)))
        )
        half = self.encoder.half_channels
        self.head = nn.Sequential(
            up_conv(dims, half, max(half // 2, 1)),
            ConvNormAct(dims, max(half // 2, 1), max(half // 2, 1), 3),
            nd.CONV_TRANSPOSE[dims](max(half // 2, 1), classes, 2, 2),
        )
        kaiming(self)

    def bypassed(self, x: Tensor) -> list[Tensor]:
        """What enters the encoder's stages, finest first, and what leaves the last one."""
        if not isinstance(self.encoder, ResNet):
            return list(self.encoder(x))
        features = [self.encoder.pool(self.encoder.half(x))]
        for stage in self.encoder.stages:
            features.append(stage(features[-1]))
        return features

    def forward(self, x: Tensor) -> Tensor:
        features = self.bypassed(x)
        x = features.pop()
        for block in self.decoder:
            x = block(x)
            if features:
                x = x + features.pop()
        return self.head(x)
