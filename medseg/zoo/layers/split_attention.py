"""Split attention. Zhang et al. 2020, arXiv:2004.08955: groups of channels that compete for each feature."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv


class SplitAttention(nn.Module):
    """A 3x3 convolution in `radix` splits, summed with weights that their common mean decides, channel by channel.

    V = sum_r a_r * U_r with U_r = relu(BN(conv(x)))_r and a = softmax over r of fc2(relu(BN(fc1(mean(sum_r U_r)))))
    (section 3.1). radix 1 has a sigmoid instead. cardinality: groups that do all of this apart. fc1 has
    max(channels * radix / 4, 32) outputs. options: those of the convolution (dilation). (B, C, *s) -> same.
    """

    def __init__(
        self, dims: int, channels: int, radix: int = 2, cardinality: int = 1, **options: object
    ) -> None:
        super().__init__()
        self.radix, self.cardinality = radix, cardinality
        inner = max(channels * radix // 4, 32)
        self.splits = ConvNormAct(dims, channels, channels * radix, 3, groups=radix * cardinality, **options)
        self.weigh = nn.Sequential(
            ConvNormAct(dims, channels, inner, 1, Style(bias=True), groups=cardinality),
            plain_conv(dims, inner, channels * radix, 1, groups=cardinality),
        )

    def weights(self, splits: Tensor) -> Tensor:
        """(B, radix, C, *s) -> (B, radix, C, 1, ...), of sum 1 over the splits."""
        batch, radix, channels = splits.shape[:3]
        scores = self.weigh(nd.global_average(splits.sum(dim=1)))
        if radix == 1:
            return torch.sigmoid(scores)[:, None]
        scores = scores.reshape(batch, self.cardinality, radix, -1).transpose(1, 2)
        ones = (1,) * (splits.ndim - 3)
        return torch.softmax(scores, dim=1).reshape(batch, radix, channels, *ones)

    def forward(self, x: Tensor) -> Tensor:
        splits = torch.stack(self.splits(x).chunk(self.radix, dim=1), dim=1)
        return (self.weights(splits) * splits).sum(dim=1)
