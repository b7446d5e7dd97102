"""DeepLab v3 for smoke. Wang, Su, Liu, Zhang, Journal of Xidian University, 2019, doi:10.19665/j.issn1001-2400.2019.06.008.

Smoke has no fixed shape and a vague outline. A refinement behind the encoder weakens the grid that dilated
convolutions leave; the atrous pyramid looks through deformable convolutions, which follow the shape; a decoder brings
spatial detail back from an early stage, whose channels are weighed by an attention that sees both.
Differs from the paper: a reconstruction from its abstract, which names the three parts. Not confirmed: their layers and
channels. Here the refinement is a 1x1 convolution and an undilated residual pair of 3x3; the three dilated branches
are deformable at DeepLab v3's rates; the decoder reads stride 4, reduced to 48 channels, with one gate of reduction 4.
Volumes use 3D layers; smaller `rates` suit small patches, as in DeepLab v3.
Oracle: none kept; the deformable convolution against the dilated and the shifted one that it equals at such offsets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv
from medseg.zoo.layers.deformable import DeformableConvNormAct
from medseg.zoo.layers.gates import SqueezeExcite
from medseg.zoo.layers.heads import BackboneNet

BARE = Style("batch", "none")


class FeatureRefinement(nn.Module):
    """1x1 to `outputs` channels, then x + two undilated 3x3: neighbours that dilation kept apart meet again."""

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.reduce = ConvNormAct(dims, inputs, outputs, 1)
        self.mix = nn.Sequential(
            ConvNormAct(dims, outputs, outputs, 3), ConvNormAct(dims, outputs, outputs, 3, BARE)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        return torch.relu(x + self.mix(x))


class DeformableASPP(nn.Module):
    """Atrous spatial pyramid of DeepLab v3 whose 3x3 branches are deformable. (B, C, *s) -> (B, outputs, *s)."""

    def __init__(self, dims: int, inputs: int, outputs: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.point = ConvNormAct(dims, inputs, outputs, 1)
        self.deformed = nn.ModuleList(
            DeformableConvNormAct(dims, inputs, outputs, dilation=rate) for rate in rates
        )
        self.image = ConvNormAct(dims, inputs, outputs, 1)
        self.project = ConvNormAct(dims, (2 + len(rates)) * outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        image = self.image(nd.global_average(x)).expand(-1, -1, *x.shape[2:])
        branches = [branch(x) for branch in self.deformed]
        return self.project(torch.cat([self.point(x), *branches, image], dim=1))


class ChannelAttentionDecoder(nn.Module):
    """Early features, each channel weighed by what the means of early and deep features say, join the deep ones."""

    def __init__(self, dims: int, low: int, deep: int, classes: int) -> None:
        super().__init__()
        reduced = max(48 * deep // 256, 4)
        self.reduce = ConvNormAct(dims, low, reduced, 1)
        joined = deep + reduced
        self.gate = SqueezeExcite(joined, 4)
        self.refine = nn.Sequential(ConvNormAct(dims, joined, deep, 3), plain_conv(dims, deep, classes, 1))

    def forward(self, low: Tensor, deep: Tensor) -> Tensor:
        low = self.reduce(low)
        joined = torch.cat([nd.resize(deep, low.shape[2:]), low], dim=1)
        return self.refine(self.gate(joined))


class SmokeHead(nn.Module):
    """[features of stride 4, ..., deep features] -> logits of stride 4."""

    def __init__(
        self, dims: int, encoded: Sequence[int], classes: int, channels: int, rates: Sequence[int]
    ) -> None:
        super().__init__()
        self.refinement = FeatureRefinement(dims, encoded[-1], 2 * channels)
        self.aspp = DeformableASPP(dims, 2 * channels, channels, rates)
        self.decoder = ChannelAttentionDecoder(dims, encoded[0], channels, classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.decoder(features[0], self.aspp(self.refinement(features[-1])))


class DeepLabV3Smoke(BackboneNet):
    """On (B, in_channels, *S) -> logits (B, classes, *S). output_stride: 16 or 8, which doubles the rates."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        output_stride: int = 16,
        rates: Sequence[int] = (6, 12, 18),
        channels: int = 256,
    ) -> None:
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride is {output_stride}; it is 8 or 16")
        encoder = make_resnet(backbone, dims, in_channels, output_stride, multi_grid=(1, 2, 4))
        chosen = [rate * 16 // output_stride for rate in rates]
        head = SmokeHead(dims, encoder.channels, classes, channels, chosen)
        super().__init__(dims, encoder, head, divisor=output_stride)
