"""DFN, discriminative feature network. Yu, Wang, Peng, Gao, Yu, Sang, CVPR 2018, arXiv:1804.09337.

Two faults of segmentation, two sub-networks. A smooth network, top-down from the global mean, makes regions
consistent: at each stage the coarser features decide by channel attention which of the finer ones to take. A border
network, bottom-up, is trained to find class boundaries, which tells features on either side apart.
Differs from the paper: class boundaries are voxels with another class in the window of `border` voxels on either side
(the authors: Canny edges of the labels, dilated by 7 pixels, which have no volume form); coarser maps are
interpolated by voxel centres. The loss of the regions is the trainer's, that of the border the published focal loss.
Oracle: none kept; 90.7 M with ResNet-101 as counted in the authors' code.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.outputs import Outputs

BORDER_WIDTH = 21
"""Channels of the border network."""
IGNORED = 255
"""The label of voxels that nobody labelled."""


class RefinementResidual(nn.Module):
    """RRB: 1x1 to the wanted width, then x + conv3(relu(BN(conv3(x)))), with a ReLU unless it ends in scores."""

    def __init__(self, dims: int, inputs: int, outputs: int, activation: str = "relu") -> None:
        super().__init__()
        self.unify = plain_conv(dims, inputs, outputs, 1, bias=False)
        self.path = nn.Sequential(
            ConvNormAct(dims, outputs, outputs, 3), plain_conv(dims, outputs, outputs, 3, bias=False)
        )
        self.activation = nd.make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        x = self.unify(x)
        return self.activation(x + self.path(x))


class ChannelAttention(nn.Module):
    """CAB: fine * sigmoid(W2 relu(W1 mean([fine, coarse]))) + coarse; both (B, C, *s)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.excite = nn.Sequential(
            nn.Linear(2 * channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.Sigmoid()
        )

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        weights = self.excite(torch.cat([fine, coarse], dim=1).flatten(2).mean(dim=2))
        return fine * weights[(...,) + (None,) * (fine.ndim - 2)] + coarse


def score_head(dims: int, inputs: int, classes: int) -> nn.Sequential:
    """RRB of nine channels a class, then 1x1 scores."""
    return nn.Sequential(
        RefinementResidual(dims, inputs, 9 * classes, "none"), plain_conv(dims, 9 * classes, classes, 1)
    )


def class_borders(labels: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Labels (B, R, *S) -> (border (B, *S) of 0 and 1: another value within `reach` voxels, known (B, *S) bool).

    R is 1 for exclusive classes, else one of 0 and 1 a class; 255 is not labelled and taken for 0.
    """
    known = (labels != IGNORED).all(dim=1)
    values = labels.masked_fill(labels == IGNORED, 0).float()
    pool = F.max_pool2d if values.ndim == 4 else F.max_pool3d
    window = 2 * reach + 1
    most, least = pool(values, window, 1, reach), -pool(-values, window, 1, reach)
    return (most != least).any(dim=1).float(), known


def sigmoid_focal(logits: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log p_t, voxel by voxel. Lin et al. 2017, arXiv:1708.02002, equation 5."""
    right = torch.where(target > 0, logits, -logits)
    alphas = torch.where(target > 0, alpha, 1 - alpha)
    return -alphas * torch.sigmoid(-right) ** gamma * F.logsigmoid(right)


class DFN(nn.Module):
    """DFN on (B, in_channels, *S) -> logits (B, classes, *S); those of the three coarser stages are auxiliary.

    width: channels of the smooth network. border: reach of a class boundary in voxels. border_weight: lambda, of the
    border loss beside the others.
    """

    undrawn_as_ignored = True

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        width: int = 512,
        border: int = 3,
        border_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.divisor, self.dims = (32,) * dims, dims
        self.border, self.border_weight = border, border_weight
        self.encoder = make_resnet(backbone, dims, in_channels, deep_stem=True)
        channels = self.encoder.channels
        make = RefinementResidual
        self.whole = ConvNormAct(dims, channels[-1], width, 1)
        self.before = nn.ModuleList(make(dims, c, width) for c in channels)
        self.attend = nn.ModuleList(ChannelAttention(width) for _ in channels)
        self.after = nn.ModuleList(make(dims, width, width) for _ in channels)
        self.heads = nn.ModuleList(score_head(dims, width, classes) for _ in channels)
        self.border_before = nn.ModuleList(make(dims, c, BORDER_WIDTH) for c in channels)
        self.border_after = nn.ModuleList(make(dims, BORDER_WIDTH, BORDER_WIDTH) for _ in channels[1:])
        self.border_heads = nn.ModuleList(score_head(dims, BORDER_WIDTH, 1) for _ in channels)
        for part in self.children():
            if part is not self.encoder:
                kaiming(part)

    def smooth(self, features: list[Tensor]) -> list[Tensor]:
        """Logits of all stages on their own grids, finest first."""
        coarse, scores = self.whole(nd.global_average(features[-1])), []
        for level in reversed(range(len(features))):
            fine = self.before[level](features[level])
            above = nd.resize(coarse, fine.shape[2:]) if scores else coarse.expand_as(fine)
            coarse = self.after[level](self.attend[level](fine, above))
            scores.append(self.heads[level](coarse))
        return scores[::-1]

    def borders(self, features: list[Tensor]) -> Tensor:
        """Border logits (B, stages, *s) on the finest grid, fed by one stage more each."""
        joined = self.border_before[0](features[0])
        scores = [self.border_heads[0](joined)]
        for level in range(1, len(features)):
            finer = nd.resize(self.border_before[level](features[level]), joined.shape[2:])
            joined = self.border_after[level - 1](joined + finer)
            scores.append(self.border_heads[level](joined))
        return torch.cat(scores, dim=1)

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        features = self.encoder(x)
        main, *others = (nd.resize(s, size) for s in self.smooth(features))
        if not self.training:
            return main
        borders = nd.resize(self.borders(features), size)
        return Outputs(main, tuple(others), (1.0,) * len(others), {"borders": borders})

    def border_loss(self, borders: Tensor, target: Tensor) -> Tensor:
        """Focal losses of all border logits (B, stages, *S), summed over stages, mean over known voxels."""
        labels = target if target.ndim == self.dims + 2 else target[:, None]
        truth, known = class_borders(labels, self.border)
        each = sigmoid_focal(borders.float(), truth[:, None].expand_as(borders)).sum(dim=1)
        return (each * known).sum() / known.sum().clamp(min=1)

    def training_step(
        self, images: Tensor, targets: Tensor, objective: Callable[[Outputs, Tensor], Tensor]
    ) -> Tensor:
        """The objective on the logits of all stages, plus lambda times the border loss (equation 4)."""
        outputs = self(images)
        borders = self.border_loss(outputs.extras["borders"], targets)
        return objective(outputs, targets) + self.border_weight * borders
