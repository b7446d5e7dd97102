"""Feature pyramid network with a semantic head. Lin et al., CVPR 2017, arXiv:1612.03144; head: Kirillov et al., CVPR
2019, arXiv:1901.02446.

A top-down path with lateral connections gives features of equal width and strong meaning at every scale. The
semantic head brings each of them to a quarter of the image by 3x3 convolutions with group norm and doublings, sums
them and classifies.
Differs from the paper: the pyramid's own paper segments by boxes and masks; here it has the semantic head of its
sequel. Doublings interpolate to the next level's size, so odd sizes fit.
Oracle: MONAI 1.6 FeaturePyramidNetwork for the pyramid, equal outputs with its weights; none installed for the head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv
from medseg.zoo.layers.feature_pyramid import TopDown
from medseg.zoo.layers.heads import BackboneNet


class SemanticHead(nn.Module):
    """Features of equal width (finest first) -> logits on the finest grid."""

    def __init__(self, dims: int, inputs: int, inner: int, classes: int, levels: int) -> None:
        super().__init__()
        style = Style("group", "relu")
        self.branches = nn.ModuleList()
        for level in range(levels):
            steps = max(level, 1)
            widths = (inputs, *(inner,) * steps)
            self.branches.append(
                nn.ModuleList(ConvNormAct(dims, widths[i], widths[i + 1], 3, style) for i in range(steps))
            )
        self.scores = plain_conv(dims, inner, classes, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        total = []
        for level, (x, convs) in enumerate(zip(features, self.branches, strict=True)):
            for step, conv in enumerate(convs, start=1):
                x = conv(x)
                if level:
                    x = nd.resize(x, features[level - step].shape[2:])
            total.append(x)
        return self.scores(torch.stack(total).sum(dim=0))


class FPN(BackboneNet):
    """FPN on (B, in_channels, *S) -> logits (B, classes, *S). width: of the pyramid; inner: of the head."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet50",
        width: int = 256,
        inner: int = 128,
    ) -> None:
        encoder = make_resnet(backbone, dims, in_channels)
        pyramid = TopDown(dims, encoder.channels, width)
        head = SemanticHead(dims, width, inner, classes, len(encoder.channels))
        super().__init__(dims, encoder, nn.Sequential(pyramid, head))
