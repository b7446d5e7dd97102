"""Attention U-Net. Oktay et al., MIDL 2018, arXiv:1804.03999.

Gates stand on the skips of a 3D U-Net: the coarser decoder features say, voxel by voxel, which encoder features may
pass, so that a small organ is found without a separate localisation network. Each gated skip has two such gates, so
that with several classes each may attend to structures of its own. The gate computes on a grid of half the resolution
and the finest skip has none.
Differs from the paper: none in structure for volumes: the authors' multi-output form for CT with two gates on each of
three skips, mixed by a 1x1 convolution, trilinear upsampling, and class scores of all four decoder levels brought to
full size and mixed by a last 1x1 convolution. The 1x1 that prepares the deepest signal is that of the authors' code;
the paper's 6.40 M weights are those without it. `gates: 1` is their single form. Planes use 2D layers.
Oracle: the gate by its equations written out. MONAI 1.6 AttentionUnet is another network: its gates work at the
skip's resolution without the strided theta, upsampling is learned, and there is no mixture of levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, DoubleConv, Style
from medseg.zoo.layers.gates import AttentionGate
from medseg.zoo.layers.initial import kaiming


class AttentionUNet(nn.Module):
    """Attention U-Net on (B, in_channels, *S) -> logits (B, classes, *S).

    features: channels of the levels. gates: on each gated skip.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        features: Sequence[int] = (16, 32, 64, 128, 256),
        norm: str = "batch",
        gates: int = 2,
    ) -> None:
        super().__init__()
        if gates < 1:
            raise ValueError(f"gates is {gates}; a skip has at least one")
        self.divisor = (2 ** (len(features) - 1),) * dims
        style = Style(norm, bias=True)
        inputs = (in_channels, *features[:-1])
        self.encoder = nn.ModuleList(
            DoubleConv(dims, i, o, style) for i, o in zip(inputs, features, strict=True)
        )
        self.pool = nd.MAX_POOL[dims](2)
        self.gating = ConvNormAct(dims, features[-1], features[-1], 1, style)
        pairs = list(pairwise(features))
        self.gates = nn.ModuleList(
            nn.ModuleList(AttentionGate(dims, here, below, here) for _ in range(gates))
            for here, below in pairs[1:]
        )
        self.combine = nn.ModuleList(ConvNormAct(dims, gates * here, here, 1, style) for here, _ in pairs[1:])
        self.decoder = nn.ModuleList(DoubleConv(dims, here + below, here, style) for here, below in pairs)
        self.scores = nn.ModuleList(nd.CONV[dims](here, classes, 1) for here, _ in pairs)
        self.mix = nd.CONV[dims](len(pairs) * classes, classes, 1)
        kaiming(self)

    def attend(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Decoder features, finest first, and the maps alpha (B, gates, *s) of levels 1, 2, ..."""
        skips = []
        for level, stage in enumerate(self.encoder):
            x = stage(self.pool(x) if level else x)
            skips.append(x)
        x = skips.pop()
        signal = self.gating(x)
        features: list[Tensor] = []
        maps: list[Tensor] = []
        for level in reversed(range(len(skips))):
            skip = skips[level]
            if level:
                passed, alphas = zip(*(gate(skip, signal) for gate in self.gates[level - 1]), strict=True)
                skip = self.combine[level - 1](torch.cat(passed, dim=1))
                maps.insert(0, torch.cat(alphas, dim=1))
            x = self.decoder[level](torch.cat([skip, nd.resize(x, skip.shape[2:])], dim=1))
            signal = x
            features.insert(0, x)
        return features, maps

    def forward(self, x: Tensor) -> Tensor:
        features, _ = self.attend(x)
        size = features[0].shape[2:]
        scores = [nd.resize(score(f), size) for score, f in zip(self.scores, features, strict=True)]
        return self.mix(torch.cat(scores, dim=1))
