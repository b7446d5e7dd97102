"""PSANet. Zhao, Zhang, Liu, Shi, Loy, Lin, Jia, ECCV 2018, doi:10.1007/978-3-030-01240-3_17.

Every position predicts one attention weight for each offset in the image, in two directions: what it collects from
others, and what it distributes to them. Attention is thus decided by a position's own features and by where the other
one lies, not by comparing both, and information flows both ways.
Differs from the paper: sides are multiples of 8 (the authors': one more); dropout drops single values, in the
authors' newer code whole channels. An over-complete map for every offset needs (2D-1)(2H-1)(2W-1) channels in
volumes; there the mask holds 11 offsets an axis, enough for patches of 96^3, and beyond it all offsets weigh alike,
as where a plane's mask is smaller than the image in the authors' code.
Oracle: none kept; the cut-out of the map position by position.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers.heads import BackboneNet, FCNHead, OnLast
from medseg.zoo.layers.point_wise_attention import PointWiseAttention

ALL_UNITS = ((4, (2,)), (5, (4,)))
"""Dilation of all units of stages 4 and 5, the first ones too, as in the authors' code."""
MASKS = {2: 59, 3: 11}
"""Offsets an axis: of crops of 465 to 473 pixels in the paper, of 96 voxels in volumes."""


class PSANet(BackboneNet):
    """PSANet on (B, in_channels, *S) -> logits (B, classes, *S).

    mask: offsets an axis that attention tells apart, odd (None: 59 in planes, 11 in volumes). shrink: of the map on
    which attention is computed; its cost is quadratic in that map's positions. channels: of attention and head.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet50",
        mask: int | Sequence[int] | None = None,
        shrink: int = 2,
        channels: int = 512,
    ) -> None:
        mask = MASKS[dims] if mask is None else mask
        sides = (mask,) * dims if isinstance(mask, int) else tuple(mask)
        if len(sides) != dims or any(n < 1 or n % 2 == 0 for n in sides):
            raise ValueError(f"mask is {mask}; it is an odd number, or one for each of {dims} axes")
        encoder = make_resnet(backbone, dims, in_channels, 8, deep_stem=True, cycles=ALL_UNITS)
        deepest = encoder.channels[-1]
        head = nn.Sequential(
            PointWiseAttention(dims, deepest, channels, sides, shrink),
            FCNHead(dims, 2 * deepest, classes, channels),
        )
        auxiliary = FCNHead(dims, encoder.channels[-2], classes, max(channels // 2, 1))
        super().__init__(dims, encoder, OnLast(head), auxiliary, 0.4, divisor=8)
