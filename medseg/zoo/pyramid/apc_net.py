"""APCNet. He, Deng, Zhou, Wang, Qiao, CVPR 2019, doi:10.1109/CVPR.2019.00770.

Pooled regions of several sizes are good context, but which regions matter differs from place to place. For each size,
every position estimates an affinity to each region from its own feature and the mean of the image ("global-guided
local affinity"), and gathers the regions' features by it.
Differs from the paper: none known; widths follow a well-known re-implementation. Volumes have s^3 regions.
Oracle: none kept; the module by its equations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv
from medseg.zoo.layers.heads import BackboneNet, Beside, FCNHead, OnLast
from medseg.zoo.layers.pooling import adaptive_pool


class AdaptiveContext(nn.Module):
    """(B, C, *s) -> (B, inner, *s): regions of one size gathered by sigmoid affinities, added and mixed."""

    def __init__(self, dims: int, inputs: int, inner: int, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.regions = ConvNormAct(dims, inputs, inner, 1)
        self.enter = ConvNormAct(dims, inputs, inner, 1)
        self.whole = ConvNormAct(dims, inner, inner, 1)
        self.affinity = plain_conv(dims, inner, bins**dims, 1)
        self.residual = ConvNormAct(dims, inner, inner, 1, Style("batch", "none"))
        self.mix = ConvNormAct(dims, inner, inner, 1)

    def forward(self, x: Tensor) -> Tensor:
        regions = self.regions(adaptive_pool(x, self.bins)).flatten(2)
        x = self.enter(x)
        affinity = torch.sigmoid(self.affinity(x + self.whole(nd.global_average(x)))).flatten(2)
        gathered = (regions @ affinity).reshape(x.shape)
        return self.mix(torch.relu(x + self.residual(gathered)))


class APCNet(BackboneNet):
    """APCNet on (B, in_channels, *S) -> logits (B, classes, *S). bins: regions along an axis, one branch each."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
    ) -> None:
        encoder = make_resnet(backbone, dims, in_channels, 8, deep_stem=True)
        deepest = encoder.channels[-1]
        branches = [AdaptiveContext(dims, deepest, channels, n) for n in bins]
        head = nn.Sequential(
            Beside(branches), FCNHead(dims, deepest + len(branches) * channels, classes, channels)
        )
        auxiliary = FCNHead(dims, encoder.channels[-2], classes, max(channels // 2, 1))
        super().__init__(dims, encoder, OnLast(head), auxiliary, 0.4, divisor=8)
