"""Transformer encoder with a CBAM decoder, as surveys describe it for driving scenes (CBAM: arXiv:1807.06521).

A Mix Transformer (arXiv:2105.15203) sees the whole scene at every stage; a convolutional decoder climbs back from
stage to stage, joins the skip of each, and lets a convolutional block attention module weigh which channels and which
places of the joined features count before it climbs on.
Differs from the paper: there is no one paper. The surveys name the combination without sizes, so this is a
reconstruction: MiT-B2, decoder stages as wide as the skips, CBAM of reduction 16 after each stage's two convolutions,
linear upsampling. Not confirmed: encoder size, decoder widths and where its authors place the module; the nearest paper
found (doi:10.3390/machines13060466, of 2025) could be read in its abstract only. Volumes use 3D layers and a 7x7x7
spatial gate.
Oracle: none; the encoder has the counts of SegFormer's, CBAM is compared with its equations in CBAM-U-Net's tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.core.errors import did_you_mean
from medseg.zoo.encoders.mit import MIXES, MixTransformer
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import DoubleConv, plain_conv
from medseg.zoo.layers.gates import CBAM
from medseg.zoo.layers.heads import BackboneNet


class CBAMDecoder(nn.Module):
    """Features (finest first) -> logits on the finest grid; channels: of the features."""

    def __init__(self, dims: int, channels: Sequence[int], classes: int, reduction: int) -> None:
        super().__init__()
        self.stages, self.gates = nn.ModuleList(), nn.ModuleList()
        below = channels[-1]
        for skip in reversed(channels[:-1]):
            self.stages.append(DoubleConv(dims, below + skip, skip))
            self.gates.append(CBAM(dims, skip, reduction))
            below = skip
        self.classify = nn.Sequential(nn.Dropout(0.1), plain_conv(dims, below, classes, 1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        *skips, x = features
        for stage, gate, skip in zip(self.stages, self.gates, reversed(skips), strict=True):
            x = gate(stage(torch.cat([nd.resize(x, skip.shape[2:]), skip], dim=1)))
        return self.classify(x)


class TransformerCBAM(BackboneNet):
    """MiT with a CBAM decoder on (B, in_channels, *S) -> logits (B, classes, *S). mix: b0 ... b5, small, tiny."""

    def __init__(
        self, dims: int, in_channels: int, classes: int, mix: str = "b2", reduction: int = 16
    ) -> None:
        if mix not in MIXES:
            raise ValueError(
                f"no Mix Transformer {mix!r}{did_you_mean(mix, MIXES)}; there are {', '.join(MIXES)}"
            )
        encoder = MixTransformer(dims, in_channels, MIXES[mix])
        super().__init__(dims, encoder, CBAMDecoder(dims, encoder.channels, classes, reduction))
