"""Convolutions whose dilation is learned and differs from place to place. Zhang et al. 2017, 10.1109/ICCV.2017.224."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv


class ScaleAdaptiveConv(nn.Module):
    """A 3x3 convolution whose taps lie s(p) times as far from position p as those of the dilated one it stands for.

    s(p) = a 3x3 convolution of the input, kept in 0..`largest`; it starts at 1 everywhere, where this is the dilated
    convolution exactly. Values between voxels are interpolated linearly, beyond the border they are 0. One sampled
    copy of the input is kept for each tap: 9 times its memory in 2D, 27 times in 3D.
    """

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        dilation: int = 1,
        bias: bool = False,
        largest: float = 4.0,
    ) -> None:
        super().__init__()
        self.dilation, self.largest = dilation, largest
        self.scale = plain_conv(dims, inputs, 1, 3)
        nn.init.zeros_(self.scale.weight)
        nn.init.ones_(self.scale.bias)
        conv = plain_conv(dims, inputs, outputs, 3, dilation=dilation, bias=bias)
        self.weight, self.bias = conv.weight, conv.bias

    @classmethod
    def like(cls, conv: nn.Module) -> ScaleAdaptiveConv:
        """One with the weights of a 3x3 convolution of stride 1, to put in its place."""
        dims = conv.weight.ndim - 2
        new = cls(dims, conv.in_channels, conv.out_channels, conv.dilation[0], conv.bias is not None)
        new.weight, new.bias = conv.weight, conv.bias
        return new

    def scales(self, x: Tensor) -> Tensor:
        """(B, C, *s) -> (B, 1, *s): the factor on the dilation at each position."""
        return self.scale(x).clamp(0.0, self.largest)

    def forward(self, x: Tensor) -> Tensor:
        dims = x.ndim - 2
        conv = F.conv2d if dims == 2 else F.conv3d
        # Positions in float32: bfloat16 cannot count beyond 256 voxels.
        scales = self.scales(x).float().movedim(1, -1)
        axes = [torch.arange(n, device=x.device, dtype=torch.float32) for n in x.shape[2:]]
        here = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        size = torch.tensor(x.shape[2:], device=x.device, dtype=torch.float32)
        out = torch.zeros((), device=x.device)
        for tap in product(range(3), repeat=dims):
            step = torch.tensor([self.dilation * (t - 1.0) for t in tap], device=x.device)
            place = (2 * (here + scales * step) + 1) / size - 1
            with torch.autocast(x.device.type, enabled=False):
                sampled = F.grid_sample(x.float(), place.flip(-1), align_corners=False)
            out = out + conv(sampled.to(x.dtype), self.weight[(..., *(slice(t, t + 1) for t in tap))])
        return out if self.bias is None else out + self.bias.reshape(1, -1, *[1] * dims)


def adapt_scales(module: nn.Module) -> None:
    """Puts a scale-adaptive convolution with the same weights in place of every 3x3 of stride 1 inside a module."""
    for name, child in list(module.named_children()):
        plain = isinstance(child, tuple(nd.CONV.values())) and set(child.kernel_size) == {3}
        if plain and set(child.stride) == {1} and child.groups == 1:
            setattr(module, name, ScaleAdaptiveConv.like(child))
        else:
            adapt_scales(child)
