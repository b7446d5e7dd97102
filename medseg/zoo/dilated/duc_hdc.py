"""DUC-HDC. Wang et al., WACV 2018, arXiv:1702.08502.

Hybrid dilated convolution: the units of a dilated ResNet cycle through dilations without a common factor, so that
their windows cover an area without holes. Dense upsampling convolution: instead of interpolating scores, the last
convolutions predict all c x c labels of each coarse cell as channels, which a shuffle puts in place.
Differs from the paper: cycles 1, 2, 5, 9 in stage 4 and 5, 9, 17 in stage 5 are those of the paper's text; the
released network begins stage 4 with 2 and goes on with 2, 5, 9, 1. In volumes c is 4 (c^3 K channels at c = 8 would
be 512 a class), which gives scores on half the image's grid; they are interpolated from there.
Oracle: the shuffle equals torch's pixel_shuffle in 2D.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.heads import BackboneNet, OnLast
from medseg.zoo.layers.shuffle import voxel_shuffle

HYBRID = ((4, (1, 2, 5, 9)), (5, (5, 9, 17)))


class DenseUpsampling(nn.Module):
    """Summed dilated 3x3 convolutions (B, C, *s) -> (B, f^D K, *s), shuffled to logits (B, K, *(f s))."""

    def __init__(self, dims: int, inputs: int, classes: int, factor: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.factor = factor
        outputs = classes * factor**dims
        self.convs = nn.ModuleList(plain_conv(dims, inputs, outputs, 3, dilation=r) for r in rates)

    def forward(self, x: Tensor) -> Tensor:
        return voxel_shuffle(torch.stack([conv(x) for conv in self.convs]).sum(dim=0), self.factor)


class DucHdc(BackboneNet):
    """DUC-HDC on (B, in_channels, *S) -> logits (B, classes, *S).

    factor: cells a coarse position predicts along an axis (None: 8 in planes, 4 in volumes).
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        rates: Sequence[int] = (6, 12, 18, 24),
        factor: int | None = None,
    ) -> None:
        encoder = make_resnet(backbone, dims, in_channels, 8, deep_stem=True, cycles=HYBRID)
        chosen = factor or (8 if dims == 2 else 4)
        head = DenseUpsampling(dims, encoder.channels[-1], classes, chosen, rates)
        super().__init__(dims, encoder, OnLast(head), divisor=8)
