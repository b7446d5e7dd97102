"""The U: stages with max pooling down, up-convolutions and concatenated skips up (arXiv:1505.04597, figure 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from medseg.zoo.layers import nd


class UShape(nn.Module):
    """Encoder and decoder of a U-Net around any stage block.

    features: channels of the stages, finest first; the last is the bottom. block(inputs, outputs): makes a stage.
    forward: (B, in_channels, *S) -> (B, features[0], *S). S is a multiple of 2^(stages - 1) where stages keep the
    size; stages that shrink their input get skips cropped to the middle.
    """

    def __init__(
        self, dims: int, in_channels: int, features: Sequence[int], block: Callable[[int, int], nn.Module]
    ) -> None:
        super().__init__()
        inputs = (in_channels, *features[:-1])
        self.encoder = nn.ModuleList(block(i, o) for i, o in zip(inputs, features, strict=True))
        self.pool = nd.MAX_POOL[dims](2)
        pairs = list(pairwise(features))
        self.up = nn.ModuleList(nd.CONV_TRANSPOSE[dims](below, here, 2, 2) for here, below in pairs)
        self.decoder = nn.ModuleList(block(2 * here, here) for here, _ in pairs)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, stage in enumerate(self.encoder):
            x = stage(self.pool(x) if level else x)
            skips.append(x)
        skips.pop()
        for level in reversed(range(len(skips))):
            x = self.up[level](x)
            x = self.decoder[level](torch.cat([nd.centre_crop(skips[level], x.shape[2:]), x], dim=1))
        return x
