"""BiSeNet. Yu, Wang, Peng, Gao, Yu, Sang, ECCV 2018, arXiv:1808.00897.

Speed without giving up resolution: a spatial path of three strided convolutions keeps an eighth of the image rich in
detail, a light context path (ResNet-18 and its global mean) supplies meaning, attention refinement weighs its last
two stages by their own means, and a fusion module joins the two paths. The stages of the context path have losses of
their own.
Differs from the paper: none; ResNet-18 as the backbone. The loss is the pipeline's (the authors' code trains on hard
pixels). Volumes use 3D layers.
Oracle: none kept; 13.5 M with its auxiliary heads, as counted in the authors' framework (table 4 of the paper says 49.0 M).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv
from medseg.zoo.outputs import Outputs


class AttentionRefinement(nn.Module):
    """3x3, then channels weighed by sigmoid(BN(1x1(mean)))."""

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = ConvNormAct(dims, inputs, outputs, 3)
        self.weigh = nn.Sequential(
            ConvNormAct(dims, outputs, outputs, 1, Style("batch", "none")), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.weigh(nd.global_average(x))


class FeatureFusion(nn.Module):
    """Both paths joined by 1x1; x + x * sigmoid(1x1(relu(1x1(mean))))."""

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.join = ConvNormAct(dims, inputs, outputs, 1)
        bare = Style("none", "relu", bias=False)
        self.weigh = nn.Sequential(
            ConvNormAct(dims, outputs, outputs, 1, bare),
            plain_conv(dims, outputs, outputs, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        x = self.join(torch.cat([detail, context], dim=1))
        return x + x * self.weigh(nd.global_average(x))


def score_head(dims: int, inputs: int, inner: int, classes: int) -> nn.Sequential:
    """3x3 and 1x1 scores."""
    return nn.Sequential(ConvNormAct(dims, inputs, inner, 3), plain_conv(dims, inner, classes, 1))


class BiSeNet(nn.Module):
    """BiSeNet on (B, in_channels, *S) -> logits (B, classes, *S).

    width: of the context path's outputs; spatial: of the spatial path's first convolutions.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet18",
        width: int = 128,
        spatial: int = 64,
    ) -> None:
        super().__init__()
        self.divisor = (32,) * dims
        self.encoder = make_resnet(backbone, dims, in_channels)
        channels: Sequence[int] = self.encoder.channels
        self.spatial = nn.Sequential(
            ConvNormAct(dims, in_channels, spatial, 7, stride=2),
            ConvNormAct(dims, spatial, spatial, 3, stride=2),
            ConvNormAct(dims, spatial, spatial, 3, stride=2),
            ConvNormAct(dims, spatial, width, 1),
        )
        self.whole = ConvNormAct(dims, channels[-1], width, 1)
        self.attend = nn.ModuleList(AttentionRefinement(dims, c, width) for c in (channels[-1], channels[-2]))
        self.refine = nn.ModuleList(ConvNormAct(dims, width, width, 3) for _ in range(2))
        self.fusion = FeatureFusion(dims, 2 * width, 2 * width)
        self.head = score_head(dims, 2 * width, max(width // 2, 1), classes)
        self.auxiliary = nn.ModuleList(score_head(dims, width, 2 * width, classes) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        features = self.encoder(x)
        detail = self.spatial(x)
        context = self.whole(nd.global_average(features[-1]))
        stages = []
        finer = [features[-2].shape[2:], detail.shape[2:]]
        for feature, attend, refine, target in zip(
            (features[-1], features[-2]), self.attend, self.refine, finer, strict=True
        ):
            attended = attend(feature)
            context = refine(nd.resize(attended + nd.resize(context, attended.shape[2:]), target))
            stages.append(context)
        logits = nd.resize(self.head(self.fusion(detail, context)), size)
        if not self.training:
            return logits
        others = [nd.resize(head(s), size) for head, s in zip(self.auxiliary, reversed(stages), strict=True)]
        return Outputs(logits, tuple(others), (1.0, 1.0))
