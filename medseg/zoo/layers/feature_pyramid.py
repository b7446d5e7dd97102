"""Feature pyramids: meaning carried from coarse to fine features."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv


class TopDown(nn.Module):
    """1x1 laterals to one width, nearest doublings added from above, a 3x3 each. Lin et al. 2017, arXiv:1612.03144.

    Features (finest first) of any channels -> features of `width` channels on the same grids.
    """

    def __init__(self, dims: int, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(plain_conv(dims, c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(plain_conv(dims, width, width, 3) for _ in channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        levels = [lateral(x) for lateral, x in zip(self.lateral, features, strict=True)]
        for fine in reversed(range(len(levels) - 1)):
            levels[fine] = levels[fine] + nd.resize(levels[fine + 1], levels[fine].shape[2:], "nearest")
        return [smooth(x) for smooth, x in zip(self.smooth, levels, strict=True)]
