"""ParseNet. Liu, Rabinovich, Berg, 2015, arXiv:1506.04579.

A network's real field of view is far smaller than its nominal one; the mean of a feature map over the image brings
the global context in at next to no cost. Features of different layers differ in scale, so both the local and the
global feature are brought to unit length and get a learned scale a channel before they are joined.
Differs from the paper: volumes use 3D layers; the network below differs as deeplab-v1.
Not confirmed (the authors' model definition could not be read): that no other layer than fc7, the last, is joined in
the model on DeepLab-LargeFOV, and that all scales start at 10, where the paper says that 10 or 20 learn well.
Oracle: none kept; the normalisation by its equation, as in the authors' layer (a scale a channel).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.encoders.vgg import VGG, VGG16, WIDTHS
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.heads import BackboneNet, OnLast
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.large_fov import large_fov


class L2Norm(nn.Module):
    """x / |x| over channels at each position, times a learned scale a channel (equations 1 to 3)."""

    def __init__(self, channels: int, scale: float = 10.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.scale[(..., *(None,) * (x.ndim - 2))]


class ContextHead(nn.Module):
    """Local features beside the image's mean, both normalised -> scores."""

    def __init__(self, dims: int, inputs: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.fc = large_fov(dims, inputs, hidden)
        self.local, self.context = L2Norm(hidden), L2Norm(hidden)
        self.classify = plain_conv(dims, 2 * hidden, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        context = self.context(nd.global_average(x)).expand_as(x)
        return self.classify(torch.cat([self.local(x), context], dim=1))


class ParseNet(BackboneNet):
    """ParseNet on (B, in_channels, *S) -> logits (B, classes, *S)."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = WIDTHS,
        hidden: int = 1024,
    ) -> None:
        encoder = VGG(dims, in_channels, widths, VGG16, output_stride=8)
        head = ContextHead(dims, widths[-1], classes, hidden)
        super().__init__(dims, encoder, OnLast(head), divisor=8)
        kaiming(self)
