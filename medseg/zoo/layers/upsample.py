"""Ways up: linear upsampling as a fixed or learned transposed convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.initial import linear_kernel


class FixedLinearUp(nn.Module):
    """Linear upsampling by a factor as a transposed convolution with fixed weights, channel by channel.

    (B, C, *S) -> (B, C, *(f S)); voxel centres lie as in `align_corners=False`, beyond the border is 0.
    """

    def __init__(self, dims: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.register_buffer("kernel", linear_kernel(dims, factor), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.kernel.expand(x.shape[1], 1, *self.kernel.shape).to(x.dtype)
        transposed = F.conv_transpose2d if x.ndim == 4 else F.conv_transpose3d
        return transposed(x, weight, stride=self.factor, padding=self.factor // 2, groups=x.shape[1])


def learned_linear_up(dims: int, channels: int, factor: int) -> nn.Module:
    """A transposed convolution between `channels` score maps that starts as linear upsampling. Long et al. 2015."""
    up = nd.CONV_TRANSPOSE[dims](channels, channels, 2 * factor, factor, padding=factor // 2, bias=False)
    with torch.no_grad():
        up.weight.zero_()
        for k in range(channels):
            up.weight[k, k] = linear_kernel(dims, factor).to(up.weight.device)
    return up


class LearnedDoubling(nn.Module):
    """Nearest doubling, then a 3x3 of each channel that starts as linear upsampling. Seichter et al. 2021.

    (B, C, *S) -> (B, C, *(2 S)). The paper is arXiv:2011.06961, section III-D.
    """

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.smooth = plain_conv(dims, channels, channels, 3, groups=channels)
        line = torch.tensor([0.25, 0.5, 0.25])
        kernel = line
        for _ in range(dims - 1):
            kernel = kernel[..., None] * line
        with torch.no_grad():
            self.smooth.weight.copy_(kernel.expand_as(self.smooth.weight))
            self.smooth.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.smooth(F.interpolate(x, scale_factor=2, mode="nearest"))
