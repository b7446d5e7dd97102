"""Deformable convolution: a kernel whose taps move. Dai et al. 2017, arXiv:1703.06211.

Differs from the paper: n-D. One group of offsets, no modulation.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv


class DeformableConv(nn.Module):
    """(B, inputs, *s) -> (B, outputs, *s): a convolution of `kernel` taps an axis at learned places (equation 2).

    A plain convolution of the same kernel and dilation predicts where each tap looks, in voxels beside its place in
    the dilated grid; it starts at 0, so that training starts from the dilated convolution. Values between voxels are
    linear, beyond the border 0.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: int = 3, dilation: int = 1) -> None:
        super().__init__()
        self.dims, self.dilation = dims, dilation
        taps = kernel**dims
        self.offset = plain_conv(dims, inputs, dims * taps, kernel, dilation=dilation)
        self.weight = plain_conv(dims, inputs, outputs, kernel, dilation=dilation, bias=False).weight
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)
        reach = [dilation * (i - kernel // 2) for i in range(kernel)]
        grid = torch.tensor(list(itertools.product(reach, repeat=dims)), dtype=torch.float32)
        self.register_buffer("grid", grid, persistent=False)

    def places(self, x: Tensor) -> Tensor:
        """Where each tap of each position looks, in voxels: (B, taps, *s, dims)."""
        size = x.shape[2:]
        here = torch.stack(
            torch.meshgrid(*(torch.arange(n, device=x.device) for n in size), indexing="ij"), dim=-1
        )
        offset = self.offset(x).unflatten(1, (-1, self.dims)).movedim(2, -1).float()
        return here + self.grid.view(1, -1, *(1,) * self.dims, self.dims) + offset

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        lengths = torch.tensor(size, device=x.device)
        places = (2 * self.places(x) + 1) / lengths - 1  # -1 and 1 are the outer faces of the image
        flat = places.flip(-1).flatten(1, 2)  # taps one below the other, axes in the order of grid_sample
        sampled = F.grid_sample(x.float(), flat, padding_mode="zeros", align_corners=False)
        columns = sampled.unflatten(2, (-1, size[0])).flatten(1, 2)
        kernel = self.weight.flatten(2).flatten(1)[(..., *(None,) * self.dims)]
        convolve = F.conv2d if self.dims == 2 else F.conv3d
        return convolve(columns.to(x.dtype), kernel)


class DeformableConvNormAct(nn.Sequential):
    """Deformable convolution, batch norm, ReLU."""

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: int = 3, dilation: int = 1) -> None:
        super().__init__(
            DeformableConv(dims, inputs, outputs, kernel, dilation),
            nd.make_norm("batch", dims, outputs),
            nd.make_activation("relu"),
        )
