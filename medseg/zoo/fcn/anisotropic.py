"""The binary network of the anisotropic cascade, and the boxes between its stages. Wang et al. 2017, arXiv:1709.00382."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv

SLICE, ACROSS = (1, 3, 3), (3, 1, 1)
STYLE = Style("batch", "prelu", bias=False)


class PreActivated(nn.Module):
    """x + two times (norm, PReLU, 3x3 within the slice); more channels than x has start from 0."""

    def __init__(self, inputs: int, outputs: int, rate: int = 1) -> None:
        super().__init__()
        self.path = nn.Sequential()
        for width in (inputs, outputs):
            self.path.append(nd.make_norm("batch", 3, width))
            self.path.append(nd.make_activation("prelu", width))
            self.path.append(plain_conv(3, width, outputs, SLICE, dilation=(1, rate, rate), bias=False))
        self.shortcut = nn.Identity() if inputs <= outputs else plain_conv(3, inputs, outputs, 1, bias=False)
        self.missing = max(outputs - inputs, 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.path(x) + F.pad(self.shortcut(x), (0, 0, 0, 0, 0, 0, 0, self.missing))


def part(inputs: int, outputs: int, rates: Sequence[int]) -> nn.Sequential:
    """Residual blocks of the given dilations, then one layer across slices."""
    blocks = nn.Sequential()
    for i, rate in enumerate(rates):
        blocks.append(PreActivated(inputs if i == 0 else outputs, outputs, rate))
    return blocks.append(ConvNormAct(3, outputs, outputs, ACROSS, STYLE))


def doubled(inputs: int, outputs: int) -> nn.Sequential:
    """In-plane upsampling by 2: transposed convolution, norm, PReLU."""
    up = nd.CONV_TRANSPOSE[3](
        inputs, outputs, SLICE, (1, 2, 2), padding=(0, 1, 1), output_padding=(0, 1, 1), bias=False
    )
    return nn.Sequential(up, nd.make_norm("batch", 3, outputs), nd.make_activation("prelu", outputs))


class MSNet(nn.Module):
    """(B, C, slices, H, W) -> logit of one region (B, slices, H, W), from ten residual blocks.

    widths: channels of the four parts. twice: H and W are halved twice (WNet, TNet) or once (ENet).
    """

    def __init__(self, in_channels: int, widths: Sequence[int], twice: bool) -> None:
        super().__init__()
        first, second, third, fourth = widths
        self.fine = part(in_channels, first, (1, 1))
        self.halve1 = ConvNormAct(3, first, first, SLICE, STYLE, stride=(1, 2, 2)) if twice else nn.Identity()
        self.expand1 = self.expand(first, second)
        self.middle = part(second, second, (1, 1))
        self.halve2 = ConvNormAct(3, second, second, SLICE, STYLE, stride=(1, 2, 2))
        self.expand2 = self.expand(second, third)
        self.coarse = part(third, third, (1, 2, 3))
        self.expand3 = self.expand(third, fourth)
        self.last = part(fourth, fourth, (3, 2, 1))
        self.predict1 = doubled(second, 2) if twice else plain_conv(3, second, 2, SLICE, bias=False)
        self.predict2 = nn.Sequential(doubled(third, 4), *([doubled(4, 4)] if twice else []))
        self.predict3 = nn.Sequential(doubled(fourth, 8), *([doubled(8, 8)] if twice else []))
        self.fuse = plain_conv(3, 14, 2, SLICE, bias=False)

    @staticmethod
    def expand(inputs: int, outputs: int) -> nn.Module:
        """1x1 layer where the width changes."""
        return nn.Identity() if inputs == outputs else ConvNormAct(3, inputs, outputs, 1, STYLE)

    def forward(self, x: Tensor) -> Tensor:
        one = self.middle(self.expand1(self.halve1(self.fine(x))))
        two = self.coarse(self.expand2(self.halve2(one)))
        three = self.last(self.expand3(two))
        scores = self.fuse(torch.cat([self.predict1(one), self.predict2(two), self.predict3(three)], dim=1))
        return scores[:, 1] - scores[:, 0]


def box_of(region: Tensor, margin: int, divisor: Sequence[int]) -> tuple[slice, ...] | None:
    """The box of a mask (*S) and `margin` voxels more, widened to multiples of `divisor` inside S; None if empty."""
    if not bool(region.any()):
        return None
    box = []
    for axis, multiple in enumerate(divisor):
        length = region.shape[axis]
        found = region.movedim(axis, 0).flatten(1).any(dim=1).nonzero()
        start, stop = max(int(found[0]) - margin, 0), min(int(found[-1]) + 1 + margin, length)
        size = min(-(-(stop - start) // multiple) * multiple, length)
        start = max(min(start, length - size), 0)
        box.append(slice(start, start + size))
    return tuple(box)


def dice_distance(logits: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
    """1 - soft Dice of a region and of what is not the region, averaged, where `counts`. All (B, *S)."""
    total = logits.new_zeros((), dtype=torch.float32)
    inside = logits.float().sigmoid()
    for p, t in ((inside, truth), (1 - inside, ~truth)):
        p, t = p * counts, (t & counts).float()
        total = total + 1 - (2 * (p * t).sum() + 1e-5) / (p.sum() + t.sum() + 1e-5)
    return total / 2
