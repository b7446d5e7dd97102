"""3D U-Net. Cicek, Abdulkadir, Lienkamp, Brox, Ronneberger, MICCAI 2016, arXiv:1606.06650.

The U-Net with all its operations in 3D and batch normalisation before each ReLU. Channels are doubled before each
max pooling rather than after it, so that no bottleneck of few channels arises, and up-convolutions keep their
channels. Voxels without a label get weight 0, so that a few annotated slices train a volume (here: the ignore label).
Differs from the paper: convolutions are padded (the paper's input of 132x132x116 gives 44x44x28); instance norm is
an option for batches of one or two; so is a `stem` that folds cells of voxels into channels and unfolds the logits
(sub-pixel convolution, Shi et al. 2016, arXiv:1609.05158): with 2, an eighth of the positions for the same image. The
head then sees the folded image too and has one hidden layer.
Oracle: the paper's count of 19,069,955 weights, met to the last one without the batch norm's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, DoubleConv, Style
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.shuffle import voxel_shuffle, voxel_unshuffle


class UNet3D(nn.Module):
    """3D U-Net on (B, in_channels, *S) -> logits (B, classes, *S).

    features: channels after the second convolution of each level; the first has half of them. norm: batch (as
    published), instance or group. stem: edge in voxels of the cells that become one position; 1 as published.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        features: Sequence[int] = (64, 128, 256, 512),
        norm: str = "batch",
        stem: int = 1,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.divisor = (stem * 2 ** (len(features) - 1),) * dims
        in_channels, classes = in_channels * stem**dims, classes * stem**dims
        style = Style(norm, bias=True)
        self.analysis = nn.ModuleList()
        channels = in_channels
        for width in features:
            self.analysis.append(DoubleConv(dims, channels, width, style, middle=width // 2))
            channels = width
        self.pool = nd.MAX_POOL[dims](2)
        self.up = nn.ModuleList(nd.CONV_TRANSPOSE[dims](w, w, 2, 2, bias=False) for w in features[1:])
        self.synthesis = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(dims, below + here, here, 3, style), ConvNormAct(dims, here, here, 3, style)
            )
            for here, below in pairwise(features)
        )
        self.head = nd.CONV[dims](features[0], classes, 1)
        if stem > 1:
            # Each voxel of a cell is judged by its own intensity too, or boundaries would be as coarse as the cells.
            self.head = nn.Sequential(
                nd.CONV[dims](features[0] + in_channels, 2 * features[0], 1),
                nn.ReLU(inplace=True),
                nd.CONV[dims](2 * features[0], classes, 1),
            )
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        x = folded = voxel_unshuffle(x, self.stem)
        for level, stage in enumerate(self.analysis):
            x = stage(self.pool(x) if level else x)
            skips.append(x)
        skips.pop()
        for level in reversed(range(len(skips))):
            x = self.synthesis[level](torch.cat([self.up[level](x), skips[level]], dim=1))
        if self.stem > 1:
            x = torch.cat([x, folded], dim=1)
        return voxel_shuffle(self.head(x), self.stem)
