"""Torch's layers by number of spatial axes, so that one file serves planes and volumes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG_POOL = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
MAX_UNPOOL = {2: nn.MaxUnpool2d, 3: nn.MaxUnpool3d}
DROPOUT = {2: nn.Dropout2d, 3: nn.Dropout3d}
"""Drops whole channels (spatial dropout)."""
INSTANCE_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
LINEAR = {2: "bilinear", 3: "trilinear"}


class _PooledBatchNorm:
    """Batch norm that takes its running statistics where a batch holds one value a channel.

    Globally pooled branches meet that case at batch size 1, where a batch has no variance.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:  # type: ignore[attr-defined]
            return F.batch_norm(
                x,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                False,
                0.0,
                self.eps,  # type: ignore[attr-defined]
            )
        return super().forward(x)  # type: ignore[misc]


class BatchNorm2d(_PooledBatchNorm, nn.BatchNorm2d):
    """nn.BatchNorm2d that bears a single value a channel."""


class BatchNorm3d(_PooledBatchNorm, nn.BatchNorm3d):
    """nn.BatchNorm3d that bears a single value a channel."""


BATCH_NORM = {2: BatchNorm2d, 3: BatchNorm3d}


def make_norm(name: str, dims: int, channels: int) -> nn.Module:
    """A norm layer by name: batch, instance, group (32 groups of at least two channels, or fewer) or none."""
    if name == "batch":
        return BATCH_NORM[dims](channels)
    if name == "instance":
        return INSTANCE_NORM[dims](channels, affine=True)
    if name == "group":
        groups = next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0 and (channels > g or g == 1))
        return nn.GroupNorm(groups, channels)
    if name == "none":
        return nn.Identity()
    raise ValueError(f"norm is {name!r}; it is batch, instance, group or none")


def make_activation(name: str, channels: int = 1) -> nn.Module:
    """An activation by name: relu, leaky (slope 0.01), elu, prelu (one slope a channel), none."""
    makers = {
        "relu": lambda: nn.ReLU(inplace=True),
        "leaky": lambda: nn.LeakyReLU(0.01, inplace=True),
        "elu": lambda: nn.ELU(inplace=True),
        "prelu": lambda: nn.PReLU(channels),
        "none": nn.Identity,
    }
    if name not in makers:
        raise ValueError(f"activation is {name!r}; it is {', '.join(makers)}")
    return makers[name]()


def resize(x: Tensor, size: Sequence[int], mode: str = "linear", align_corners: bool = False) -> Tensor:
    """Interpolates (B, C, *s) to (B, C, *size); `linear` is bi- or trilinear by the number of axes."""
    size = tuple(size)
    if tuple(x.shape[2:]) == size:
        return x
    if mode == "nearest":
        return F.interpolate(x, size=size, mode="nearest")
    return F.interpolate(x, size=size, mode=LINEAR[x.ndim - 2], align_corners=align_corners)


def global_average(x: Tensor) -> Tensor:
    """Mean over all spatial axes, kept as axes of length 1: (B, C, *S) -> (B, C, 1, ...)."""
    return x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)


def centre_crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """Cuts (B, C, *S) to the middle `size` of its spatial axes."""
    for axis, new in enumerate(size, start=2):
        start = (x.shape[axis] - new) // 2
        x = x.narrow(axis, start, new)
    return x


def mirror_pad(x: Tensor, margins: Sequence[tuple[int, int]]) -> Tensor:
    """Extends (B, C, *S) by mirroring at the outermost voxel, by any number of voxels on either side."""
    for axis, (before, after) in enumerate(margins, start=2):
        length = x.shape[axis]
        index = torch.arange(-before, length + after, device=x.device)
        period = max(2 * (length - 1), 1)
        index = index.remainder(period)
        index = torch.where(index >= length, period - index, index).clamp_(0, length - 1)
        x = x.index_select(axis, index)
    return x
