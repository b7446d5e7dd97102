"""Context from pooled features: pyramid pooling, atrous spatial pyramids, image-level pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct


def adaptive_pool(x: Tensor, bins: int) -> Tensor:
    """Mean over `bins` equal parts of each axis: (B, C, *S) -> (B, C, bins, ...)."""
    return F.adaptive_avg_pool2d(x, bins) if x.ndim == 4 else F.adaptive_avg_pool3d(x, bins)


class PyramidPooling(nn.Module):
    """The input beside its means over 1, 2, 3 and 6 parts an axis. Zhao et al. 2017, arXiv:1612.01105.

    (B, C, *s) -> (B, C + bins * inner, *s). mode: of interpolation, linear or nearest.
    """

    def __init__(
        self, dims: int, inputs: int, inner: int, bins: Sequence[int] = (1, 2, 3, 6), mode: str = "linear"
    ) -> None:
        super().__init__()
        self.bins, self.mode = tuple(bins), mode
        self.branches = nn.ModuleList(ConvNormAct(dims, inputs, inner, 1) for _ in bins)
        self.channels = inputs + inner * len(self.bins)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [
            nd.resize(branch(adaptive_pool(x, bins)), x.shape[2:], self.mode)
            for branch, bins in zip(self.branches, self.bins, strict=True)
        ]
        return torch.cat([x, *pooled], dim=1)


class ASPP(nn.Module):
    """Atrous spatial pyramid: 1x1, dilated 3x3 and image-level pooling beside each other, mixed by 1x1.

    Chen et al. 2017, arXiv:1706.05587, figure 5; `separable` as in arXiv:1802.02611. (B, C, *s) -> (B, outputs, *s).
    """

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        rates: Sequence[int],
        separable: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.point = ConvNormAct(dims, inputs, outputs, 1)
        make = SeparableConv if separable else ConvNormAct
        self.atrous = nn.ModuleList(make(dims, inputs, outputs, 3, dilation=rate) for rate in rates)
        self.image = ConvNormAct(dims, inputs, outputs, 1)
        self.project = nn.Sequential(
            ConvNormAct(dims, (2 + len(rates)) * outputs, outputs, 1), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        image = self.image(nd.global_average(x)).expand(-1, -1, *x.shape[2:])
        return self.project(torch.cat([self.point(x), *(branch(x) for branch in self.atrous), image], dim=1))


class SeparableConv(nn.Sequential):
    """Depth-wise convolution, then point-wise, norm and activation after each. Chen et al. 2018, arXiv:1802.02611."""

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: int = 3, **options: object) -> None:
        super().__init__(
            ConvNormAct(dims, inputs, inputs, kernel, groups=inputs, **options),
            ConvNormAct(dims, inputs, outputs, 1),
        )
