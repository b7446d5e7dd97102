"""ACNet, adaptive context network. Fu, Liu, Wang, Li, Bao, Tang, Lu, ICCV 2019, arXiv:1911.01664.

Pixels differ in the context they need: inside a large object the whole image helps, at edges and in small objects
local detail does. How much a pixel resembles the mean feature of the image is its share of global context, and what
is missing to 1 its share of local context from an earlier stage, so the two compete. Several such blocks, each with
a finer stage, bring the result from coarse to fine.
Differs from the paper: distances are measured in units of `delta` times their mean over the image, so that the gate
does not depend on the features' scale. Not confirmed, as no code is public and only the abstract could be
checked: widths, output stride 8, three blocks (on stages 4, 3 and 2), three rounds of the shared local
convolution, and the auxiliary head (0.4). Volumes use 3D layers.
Oracle: none kept; the gate by its equation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.heads import BackboneNet, FCNHead


def global_gate(x: Tensor, delta: float = 1.0) -> Tensor:
    """(B, C, *s) -> (B, 1, *s) in 0..1: exp(-(d - min d) / (delta mean d)).

    d is the squared distance of each position's feature from the mean feature; the position nearest to it gets 1.
    """
    distance = (x - nd.global_average(x)).float().square().mean(dim=1, keepdim=True)
    least = distance.flatten(1).amin(dim=1).reshape(-1, *[1] * (x.ndim - 1))
    unit = delta * nd.global_average(distance) + 1e-6
    return torch.exp(-(distance - least) / unit).to(x.dtype)


class AdaptiveContextBlock(nn.Module):
    """Features (B, C, *s) and those of an earlier stage (B, L, *S) -> (B, C, *S).

    rounds: how often the local features are taken in by one shared convolution.
    """

    def __init__(self, dims: int, channels: int, low: int, rounds: int, delta: float) -> None:
        super().__init__()
        self.rounds, self.delta = rounds, delta
        self.whole = ConvNormAct(dims, channels, channels, 1)
        self.local = ConvNormAct(dims, low, channels, 1)
        self.recur = ConvNormAct(dims, 2 * channels, channels, 3)
        self.mix = ConvNormAct(dims, 2 * channels, channels, 3)

    def contexts(self, x: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        """Global and local context of each position, each weighed by its share; the shares add up to 1."""
        gate = global_gate(x, self.delta)
        whole = gate * self.whole(nd.global_average(x))
        local = (1 - gate) * self.local(low)
        refined = x
        for _ in range(self.rounds):
            refined = self.recur(torch.cat([refined, local], dim=1))
        return whole, (1 - gate) * refined

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        x = nd.resize(x, low.shape[2:])
        whole, local = self.contexts(x, low)
        return self.mix(torch.cat([x, whole + local], dim=1))


class CoarseToFine(nn.Module):
    """Features (finest first) -> logits on the finest grid."""

    def __init__(
        self, dims: int, widths: Sequence[int], classes: int, channels: int, rounds: int, delta: float
    ) -> None:
        super().__init__()
        self.enter = ConvNormAct(dims, widths[-1], channels, 3)
        self.blocks = nn.ModuleList(
            AdaptiveContextBlock(dims, channels, low, rounds, delta) for low in reversed(widths[:-1])
        )
        self.classify = nn.Sequential(nn.Dropout(0.1), plain_conv(dims, channels, classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = self.enter(features[-1])
        for block, low in zip(self.blocks, reversed(features[:-1]), strict=True):
            x = block(x, low)
        return self.classify(x)


class ACNet(BackboneNet):
    """ACNet on (B, in_channels, *S) -> logits (B, classes, *S).

    rounds: of the shared local convolution. delta: how fast the share of global context falls with distance.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        channels: int = 512,
        rounds: int = 3,
        delta: float = 1.0,
    ) -> None:
        if rounds < 1 or delta <= 0:
            raise ValueError(f"rounds is {rounds}, delta {delta}; rounds is at least 1, delta above 0")
        encoder = make_resnet(backbone, dims, in_channels, 8, deep_stem=True)
        head = CoarseToFine(dims, encoder.channels, classes, channels, rounds, delta)
        auxiliary = FCNHead(dims, encoder.channels[-2], classes, max(channels // 2, 1))
        super().__init__(dims, encoder, head, auxiliary, 0.4, divisor=8)
