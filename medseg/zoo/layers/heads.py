"""From features to logits of the image's size, with an auxiliary head while training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.outputs import Outputs


class FCNHead(nn.Sequential):
    """3x3 convolution with norm, dropout, 1x1 scores: the head that dilated networks train stage 4 with."""

    def __init__(self, dims: int, inputs: int, classes: int, inner: int, dropout: float = 0.1) -> None:
        super().__init__(
            ConvNormAct(dims, inputs, inner, 3),
            nn.Dropout(dropout),
            plain_conv(dims, inner, classes, 1),
        )


class BackboneNet(nn.Module):
    """A backbone, a head on its features, and perhaps an auxiliary head.

    head: takes the list of features (finest first) and returns logits of any size, which are interpolated to the
    image's. auxiliary: takes the features before the last; its loss counts `weight`, in training mode only.
    """

    def __init__(
        self,
        dims: int,
        encoder: nn.Module,
        head: nn.Module,
        auxiliary: nn.Module | None = None,
        weight: float = 0.4,
        divisor: int = 32,
    ) -> None:
        super().__init__()
        self.divisor = (divisor,) * dims
        self.encoder, self.head, self.auxiliary, self.weight = encoder, head, auxiliary, weight

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        features: Sequence[Tensor] = self.encoder(x)
        logits = nd.resize(self.head(features), size)
        if not self.training or self.auxiliary is None:
            return logits
        return Outputs(logits, (nd.resize(self.auxiliary(features[-2]), size),), (self.weight,))


class OnLast(nn.Module):
    """Lets a module that takes one feature map act on the last of a list."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return self.module(features[-1])


class Beside(nn.Module):
    """The input and what each branch makes of it, concatenated."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *(branch(x) for branch in self.branches)], dim=1)
