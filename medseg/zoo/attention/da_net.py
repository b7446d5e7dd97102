"""DANet. Fu, Liu, Tian, Li, Bao, Fang, Lu, CVPR 2019, arXiv:1809.02983.

Two self-attentions on the features of a dilated ResNet: the position module lets each place gather from all places
that look alike, however far; the channel module lets each channel gather from all related channels. Both start as
the identity, their outputs are summed, and the sum and either part are each trained to segment.
Differs from the paper: none; dropout drops single values, in the authors' code whole channels. The stem of three 3x3
convolutions is the default of that code, while the weights they released have one of 7x7. Attention over N positions
costs N^2 time but, by a fused kernel, not memory; at an eighth of a 96^3 volume N is 1,728.
Oracle: none kept; both modules by their equations; 66.5 M with ResNet-101 by its layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.outputs import Outputs


class PositionAttention(nn.Module):
    """x + gamma sum_j softmax_j(q_i k_j) v_j over positions (equations 1 and 2); gamma starts at 0."""

    def __init__(self, dims: int, channels: int, inner: int) -> None:
        super().__init__()
        self.query, self.key = plain_conv(dims, channels, inner, 1), plain_conv(dims, channels, inner, 1)
        self.value = plain_conv(dims, channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (f(x).flatten(2).transpose(1, 2) for f in (self.query, self.key, self.value))
        gathered = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        return x + self.gamma * gathered.transpose(1, 2).reshape(x.shape)


class ChannelAttention(nn.Module):
    """x + beta softmax(max(X X^T) - X X^T) X over channels (equations 3 and 4); beta starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        energy = flat @ flat.transpose(1, 2)
        weights = torch.softmax(energy.amax(dim=-1, keepdim=True) - energy, dim=-1)
        return x + self.beta * (weights @ flat).reshape(x.shape)


class DANet(nn.Module):
    """DANet on (B, in_channels, *S) -> logits (B, classes, *S). channels: width of the two branches."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        channels: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.divisor = (8,) * dims
        self.encoder = make_resnet(backbone, dims, in_channels, 8, deep_stem=True, multi_grid=(1, 2, 4))
        deepest = self.encoder.channels[-1]
        modules = (PositionAttention(dims, channels, max(channels // 8, 1)), ChannelAttention())
        self.branches = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(dims, deepest, channels, 3), m, ConvNormAct(dims, channels, channels, 3)
            )
            for m in modules
        )
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Dropout(dropout), plain_conv(dims, channels, classes, 1)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        features = self.encoder(x)[-1]
        place, channel = (branch(features) for branch in self.branches)
        main = nd.resize(self.heads[0](place + channel), size)
        if not self.training:
            return main
        others = (self.heads[1](place), self.heads[2](channel))
        return Outputs(main, tuple(nd.resize(o, size) for o in others), (1.0, 1.0))
