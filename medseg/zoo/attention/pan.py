"""PAN, pyramid attention network. Li, Xiong, An, Wang, BMVC 2018, arXiv:1805.10180.

Feature pyramid attention: three convolutions of 7, 5 and 3 on ever coarser maps are merged from coarse to fine into
attention for each pixel, which multiplies the 1x1-reduced features of the last stage; their global mean is added.
Global attention upsample: going up, the mean of the coarser features weighs the channels of the finer ones.
Differs from the paper: none known. Not confirmed: the pyramid's attention has one channel and is halved by max
pooling, and the decoder has 32 channels, as in the maintained re-implementation; the paper's own widths were not at
hand. Maps that do not halve evenly are rounded up. Volumes use 3D layers.
Oracle: the decoder of segmentation-models-pytorch with equal weights, where installed; its 24.27 M with ResNet-50.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv
from medseg.zoo.layers.heads import BackboneNet

BIASED = Style(bias=True)


def raise_to(x: Tensor, size: Sequence[int]) -> Tensor:
    """Linear interpolation with the corners on the corners."""
    return nd.resize(x, size, align_corners=True)


class FeaturePyramidAttention(nn.Module):
    """FPA: attention(x) * conv1(x) + conv1(mean(x)). (B, inputs, *s) -> (B, outputs, *s)."""

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.whole = ConvNormAct(dims, inputs, outputs, 1, BIASED)
        self.middle = ConvNormAct(dims, inputs, outputs, 1, BIASED)
        self.pool = nd.MAX_POOL[dims](2, ceil_mode=True)
        widths = ((inputs, 7), (1, 5), (1, 3))
        self.down = nn.ModuleList(ConvNormAct(dims, c, 1, kernel, BIASED) for c, kernel in widths)
        self.across = nn.ModuleList(ConvNormAct(dims, 1, 1, kernel, BIASED) for _, kernel in widths)

    def attention(self, x: Tensor) -> Tensor:
        """One weight a position: (B, inputs, *s) -> (B, 1, *s)."""
        maps = [x]
        for down in self.down:
            maps.append(down(self.pool(maps[-1])))
        merged = self.across[-1](maps[-1])
        for level in (2, 1):
            merged = self.across[level - 1](maps[level]) + raise_to(merged, maps[level].shape[2:])
        return raise_to(merged, x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x) * self.middle(x) + self.whole(nd.global_average(x))


class GlobalAttentionUpsample(nn.Module):
    """GAU: up(coarse) + sigmoid(BN(conv1(mean(coarse)))) * conv3(fine)."""

    def __init__(self, dims: int, fine: int, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            ConvNormAct(dims, channels, channels, 1, Style("batch", "none", bias=True)), nn.Sigmoid()
        )
        self.reduce = ConvNormAct(dims, fine, channels, 3, BIASED)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        weighed = self.reduce(fine) * self.weigh(nd.global_average(coarse))
        return raise_to(coarse, fine.shape[2:]) + weighed


class Decoder(nn.Module):
    """Features of stages 2..5, finest first -> logits on the finest grid."""

    def __init__(self, dims: int, inputs: Sequence[int], classes: int, channels: int) -> None:
        super().__init__()
        self.pyramid = FeaturePyramidAttention(dims, inputs[-1], channels)
        self.up = nn.ModuleList(GlobalAttentionUpsample(dims, c, channels) for c in reversed(inputs[:-1]))
        self.classify = plain_conv(dims, channels, classes, 3)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.pyramid(features[-1])
        for up, fine in zip(self.up, reversed(features[:-1]), strict=True):
            x = up(fine, x)
        return self.classify(x)


class PAN(BackboneNet):
    """PAN on (B, in_channels, *S) -> logits (B, classes, *S).

    deep_stem: whether three 3x3 convolutions replace the backbone's 7x7, as in the paper. channels: of the decoder.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        channels: int = 32,
        deep_stem: bool = True,
    ) -> None:
        encoder = make_resnet(backbone, dims, in_channels, 16, deep_stem=deep_stem)
        super().__init__(dims, encoder, Decoder(dims, encoder.channels, classes, channels), divisor=16)
