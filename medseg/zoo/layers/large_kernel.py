"""Large separable kernels and boundary refinement on score maps. Peng et al. 2017, arXiv:1703.02719."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.initial import keep_variance


class GlobalConv(nn.Module):
    """(B, C, *s) -> (B, K, *s): the axes' k-long convolutions one after the other, plus the same in reverse order.

    No activation stands between them, so they start with the gain of linear layers: by torch's own start, three in a row
    would pass a fifth of the signal.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.ways = nn.ModuleList(
            nn.Sequential(
                *(
                    plain_conv(
                        dims,
                        inputs if i == 0 else outputs,
                        outputs,
                        [kernel if a == axis else 1 for a in range(dims)],
                    )
                    for i, axis in enumerate(order)
                )
            )
            for order in (range(dims), tuple(reversed(range(dims))))
        )
        keep_variance(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.ways[0](x) + self.ways[1](x)


class BoundaryRefinement(nn.Module):
    """x + conv(relu(conv(x))) on score maps."""

    def __init__(self, dims: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = plain_conv(dims, classes, classes, 3), plain_conv(dims, classes, classes, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))
