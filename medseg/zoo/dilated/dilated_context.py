"""Dilated context module. Yu, Koltun, ICLR 2016, arXiv:1511.07122.

A front end (VGG-16 without its last two poolings, dilated behind them) gives scores at an eighth of the image; a
module of 3x3 convolutions with dilation 1, 1, 2, 4, 8, 16, 1 on the score maps sees 67 positions across without
losing resolution, and starts as the identity so that it can only help.
Differs from the paper: convolutions are padded by zeros where the paper extends the image by its mirror. The basic
module; "large" widens it to 2, 2, 4, 8, 16, 32, 32 times the classes. Volumes use 3D layers.
Oracle: none kept; the receptive field and the identity are tested.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.vgg import VGG, VGG16, WIDTHS
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.heads import BackboneNet, OnLast
from medseg.zoo.layers.initial import kaiming

DILATIONS = (1, 1, 2, 4, 8, 16, 1)
LARGE = (2, 2, 4, 8, 16, 32, 32)


class ContextModule(nn.Module):
    """Score maps (B, K, *s) -> refined score maps of the same shape. large: the wide form."""

    def __init__(self, dims: int, classes: int, large: bool = False) -> None:
        super().__init__()
        widths = [classes * (w if large else 1) for w in LARGE]
        inputs = (classes, *widths[:-1])
        self.convs = nn.ModuleList(
            plain_conv(dims, i, o, 3, dilation=d) for i, o, d in zip(inputs, widths, DILATIONS, strict=True)
        )
        self.last = plain_conv(dims, widths[-1], classes, 1)
        for conv in (*self.convs, self.last):
            start_as_identity(conv, classes)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = torch.relu(conv(x))
        return self.last(x)


def start_as_identity(conv: nn.Module, classes: int) -> None:
    """Each output copies the inputs of its class, shared evenly (equations 4 and 5), with a little noise if wide."""
    outputs, inputs = conv.weight.shape[:2]
    with torch.no_grad():
        nn.init.normal_(conv.weight, 0.0, 0.0 if outputs == inputs == classes else 1e-3)
        centre = tuple(n // 2 for n in conv.weight.shape[2:])
        for o in range(outputs):
            for i in range(inputs):
                if o * classes // outputs == i * classes // inputs:
                    conv.weight[(o, i, *centre)] += classes / inputs
        nn.init.zeros_(conv.bias)


class DilatedContext(BackboneNet):
    """Front end and context module on (B, in_channels, *S) -> logits (B, classes, *S).

    hidden, fc_kernel: of the layers that stand for fully connected ones (None: 4096 and 7; in volumes 1024 and 3).
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = WIDTHS,
        hidden: int | None = None,
        fc_kernel: int | None = None,
        large: bool = False,
    ) -> None:
        encoder = VGG(dims, in_channels, widths, VGG16, output_stride=8, keep_pools=False)
        hidden = hidden or (4096 if dims == 2 else 1024)
        kernel = fc_kernel or (7 if dims == 2 else 3)
        front = nn.Sequential(
            plain_conv(dims, widths[-1], hidden, kernel, dilation=4),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            plain_conv(dims, hidden, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            plain_conv(dims, hidden, classes, 1),
        )
        kaiming(encoder)
        kaiming(front)
        head = nn.Sequential(front, ContextModule(dims, classes, large))
        super().__init__(dims, encoder, OnLast(head), divisor=8)
