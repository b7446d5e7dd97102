"""DMNet. He, Deng, Qiao, ICCV 2019, doi:10.1109/ICCV.2019.00366.

Filters of several sizes capture several scales, but fixed filters cannot fit every image. Each branch makes its own
depth-wise filters from this image: the features pooled to k x k, passed through a 1x1 convolution, are the kernels
with which the same features are filtered.
Differs from the paper: none known; widths follow a well-known re-implementation. In volumes kernels are k^3.
Not confirmed: the 1x1 convolution after each branch's filters, an option of that re-implementation which it leaves off.
Oracle: none kept; the filters by their equation, sample by sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.heads import BackboneNet, Beside, FCNHead, OnLast
from medseg.zoo.layers.pooling import adaptive_pool


class DynamicConv(nn.Module):
    """(B, C, *s) -> (B, inner, *s) by depth-wise kernels of size k made from the input itself."""

    def __init__(self, dims: int, inputs: int, inner: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.make = plain_conv(dims, inputs, inner, 1)
        self.enter = ConvNormAct(dims, inputs, inner, 1)
        self.leave = nn.Sequential(
            nd.make_norm("batch", dims, inner), nn.ReLU(inplace=True), ConvNormAct(dims, inner, inner, 1)
        )

    def filtered(self, x: Tensor) -> Tensor:
        """The reduced features of each sample under that sample's kernels."""
        kernels = self.make(adaptive_pool(x, self.kernel))
        x = self.enter(x)
        samples, channels = x.shape[:2]
        conv = F.conv2d if x.ndim == 4 else F.conv3d
        flat = x.reshape(1, samples * channels, *x.shape[2:])
        weight = kernels.reshape(samples * channels, 1, *kernels.shape[2:]).to(flat.dtype)
        return conv(flat, weight, padding=self.kernel // 2, groups=samples * channels).reshape(x.shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.filtered(x))


class DMNet(BackboneNet):
    """DMNet on (B, in_channels, *S) -> logits (B, classes, *S). kernels: odd filter sizes, one branch each."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        channels: int = 512,
        kernels: Sequence[int] = (1, 3, 5, 7),
    ) -> None:
        if any(k % 2 == 0 for k in kernels):
            raise ValueError(f"kernels are {list(kernels)}; they are odd")
        encoder = make_resnet(backbone, dims, in_channels, 8, deep_stem=True)
        deepest = encoder.channels[-1]
        branches = [DynamicConv(dims, deepest, channels, k) for k in kernels]
        head = nn.Sequential(
            Beside(branches), FCNHead(dims, deepest + len(branches) * channels, classes, channels)
        )
        auxiliary = FCNHead(dims, encoder.channels[-2], classes, max(channels // 2, 1))
        super().__init__(dims, encoder, OnLast(head), auxiliary, 0.4, divisor=8)
