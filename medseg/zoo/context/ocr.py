"""Object-contextual representations. Yuan, Chen, Wang, ECCV 2020, arXiv:1909.11065.

The context of a pixel is the representation of its class in this image: a first, supervised segmentation gives soft
object regions; the features of each region are averaged; every pixel gathers from the K region features by its
relation to them, and joins that to its own feature.
Differs from the paper: none; the backbone is HRNetV2-W48, as in its best figures. Attention to K regions is cheap in
volumes too.
Oracle: none installed; the published 70.4 M with 19 classes; region features by their equation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.encoders.hrnet import HRNet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv
from medseg.zoo.outputs import Outputs

BIASED = Style("batch", "relu", bias=True)


def region_features(features: Tensor, scores: Tensor) -> Tensor:
    """Means of features (B, C, *s) weighted by softmax over positions of each class's scores: (B, K, C)."""
    weights = torch.softmax(scores.flatten(2), dim=2)
    return weights @ features.flatten(2).transpose(1, 2)


class ObjectAttention(nn.Module):
    """Pixel features (B, C, *s) and region features (B, K, C) -> context (B, C, *s) (equation 3)."""

    def __init__(self, dims: int, channels: int, inner: int) -> None:
        super().__init__()
        self.pixel = nn.Sequential(ConvNormAct(dims, channels, inner, 1), ConvNormAct(dims, inner, inner, 1))
        self.region = nn.Sequential(ConvNormAct(2, channels, inner, 1), ConvNormAct(2, inner, inner, 1))
        self.value = ConvNormAct(2, channels, inner, 1)
        self.out = ConvNormAct(dims, inner, channels, 1)

    def forward(self, x: Tensor, regions: Tensor) -> Tensor:
        columns = regions.transpose(1, 2)[..., None]
        query = self.pixel(x).flatten(2).transpose(1, 2)
        key, value = (f(columns).squeeze(-1).transpose(1, 2) for f in (self.region, self.value))
        context = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        return self.out(context.reshape(x.shape[0], -1, *x.shape[2:]))


class OCR(nn.Module):
    """HRNet with OCR on (B, in_channels, *S) -> logits (B, classes, *S); the first segmentation is auxiliary (0.4).

    width, modules, units, stem: of HRNet. channels, inner: of pixel features and of attention.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        width: int = 48,
        modules: Sequence[int] = (1, 4, 3),
        channels: int = 512,
        inner: int = 256,
    ) -> None:
        super().__init__()
        self.divisor = (32,) * dims
        units, stem = (4, 64) if width >= 16 else (1, 8)
        self.encoder = HRNet(dims, in_channels, width, modules, units, stem)
        total = sum(self.encoder.channels)
        self.first = nn.Sequential(
            ConvNormAct(dims, total, total, 1, BIASED), plain_conv(dims, total, classes, 1)
        )
        self.enter = ConvNormAct(dims, total, channels, 3, BIASED)
        self.attention = ObjectAttention(dims, channels, inner)
        self.mix = nn.Sequential(ConvNormAct(dims, 2 * channels, channels, 1), nn.Dropout(0.05))
        self.classify = plain_conv(dims, channels, classes, 1)

    def scores(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, first segmentation and the features the logits are read from, at a quarter of the image."""
        streams = self.encoder(x)
        joined = torch.cat([nd.resize(s, streams[0].shape[2:]) for s in streams], dim=1)
        first = self.first(joined)
        pixels = self.enter(joined)
        context = self.attention(pixels, region_features(pixels, first))
        mixed = self.mix(torch.cat([context, pixels], dim=1))
        return self.classify(mixed), first, mixed

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        logits, first, _ = self.scores(x)
        logits = nd.resize(logits, size)
        return Outputs(logits, (nd.resize(first, size),), (0.4,)) if self.training else logits
