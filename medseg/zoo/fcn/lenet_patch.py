"""LeNet-5 as a patch classifier. LeCun, Bottou, Bengio, Haffner, Proc. IEEE 1998, doi:10.1109/5.726791.

Before fully convolutional networks a voxel was segmented by classifying the patch around it (Ciresan et al. 2012): a
LeNet-5 sees 32 voxels an axis and names the class of the middle one. Trained on patches drawn at random, it then slides
over the image; sliding is done at once, by dilated layers that give every position what its own patch would give.
Differs from the paper: the paper classifies whole characters. The output's codes are random, which the paper allows for
classes that have no picture of their own; its extra term against collapse of the codes is not needed, they are fixed.
Patches at the border are completed by mirroring. Volumes use 3D layers of the same widths.
Oracle: 60,000 weights as published; the dense form against patches one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.layers import nd

PATCH = 32
"""Voxels an axis that the classifier sees."""
IGNORED = 255
"""Label of voxels that count nowhere."""
SIXTEEN_OF_SIX = (
    (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
    (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
    (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5), (0, 1, 2, 3, 4, 5),
)  # fmt: skip
"""Which maps of S2 each map of C3 reads (table 1 of the paper)."""


def squash(x: Tensor) -> Tensor:
    """1.7159 tanh(2 x / 3), of unit gain between -1 and 1 (appendix A)."""
    return 1.7159 * torch.tanh(x * (2 / 3))


class TableConv(nn.Module):
    """A valid convolution of 5 taps an axis in which each output map reads the input maps of a table only."""

    def __init__(self, dims: int, inputs: int, table: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, len(table)
        pairs = [out * inputs + source for out, sources in enumerate(table) for source in sources]
        fans = [len(sources) for sources in table for _ in sources]
        self.register_buffer("pairs", torch.tensor(pairs), persistent=False)
        self.weight = nn.Parameter(torch.empty(len(pairs), *(5,) * dims))
        self.bias = nn.Parameter(torch.zeros(len(table)))
        bound = 2.4 / (torch.tensor(fans, dtype=torch.float32) * 5**dims) ** 0.5
        with torch.no_grad():
            self.weight.uniform_(-1, 1).mul_(bound.to(self.weight.device).view(-1, *(1,) * dims))

    def forward(self, x: Tensor, dilation: int = 1) -> Tensor:
        flat = self.weight.new_zeros(self.outputs * self.inputs, *self.weight.shape[1:])
        weight = flat.index_copy(0, self.pairs, self.weight).unflatten(0, (self.outputs, self.inputs))
        convolve = F.conv2d if x.ndim == 4 else F.conv3d
        return convolve(x, weight, self.bias, dilation=dilation)


class Subsample(nn.Module):
    """Means over 2 voxels an axis, times a coefficient and plus a bias a map; dense: at every position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, dilation: int = 1, dense: bool = False) -> Tensor:
        for axis in range(2, x.ndim):
            n = x.shape[axis]
            x = (x.narrow(axis, 0, n - dilation) + x.narrow(axis, dilation, n - dilation)) / 2
        if not dense:
            x = x[(..., *(slice(None, None, 2),) * (x.ndim - 2))]
        shape = (-1, *(1,) * (x.ndim - 2))
        return squash(x * self.coefficient.view(shape) + self.bias.view(shape))


class LeNetPatch(nn.Module):
    """LeNet-5 for the middle voxel of each patch of (B, in_channels, *S) -> logits (B, classes, *S).

    patches: how many are drawn from each image of a training batch, half of them (where there are any) on voxels that
    are not of class 0. hidden: units of F6, the length of the classes' codes.
    """

    undrawn_as_ignored = True

    def __init__(
        self, dims: int, in_channels: int, classes: int, patches: int = 256, hidden: int = 84
    ) -> None:
        super().__init__()
        self.dims, self.patches = dims, patches
        self.divisor = (1,) * dims
        self.c1 = TableConv(dims, in_channels, [range(in_channels)] * 6)
        self.s2 = Subsample(6)
        self.c3 = TableConv(dims, 6, SIXTEEN_OF_SIX)
        self.s4 = Subsample(16)
        self.c5 = TableConv(dims, 16, [range(16)] * 120)
        self.f6 = nd.CONV[dims](120, hidden, 1)
        codes = torch.randint(
            0, 2, (classes, hidden), generator=torch.Generator("cpu").manual_seed(1998), device="cpu"
        )
        self.register_buffer("codes", 2.0 * codes - 1)

    def classify(self, x: Tensor, dense: bool = False) -> Tensor:
        """(B, C, *(S + 31)) -> (B, K, *S) where dense, else patches of 32 an axis -> (B, K, 1, ...).

        Logits are minus the squared distance between F6 and each class's code (equation 7). What does not differ
        between classes is left out: |f|^2 and |code|^2.
        """
        fine, coarse = (2, 4) if dense else (1, 1)
        x = self.s2(squash(self.c1(x)), 1, dense)
        x = self.s4(squash(self.c3(x, fine)), fine, dense)
        features = squash(self.f6(squash(self.c5(x, coarse))))
        return 2 * torch.einsum("bc...,kc->bk...", features, self.codes.to(features.dtype))

    def padded(self, x: Tensor) -> Tensor:
        """The image with what patches around its outermost voxels see beyond it."""
        return nd.mirror_pad(x, [(PATCH // 2, PATCH // 2 - 1)] * self.dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.padded(x), dense=True)

    def training_step(self, images: Tensor, targets: Tensor, objective: Callable[..., Any]) -> Tensor:
        """The objective on patches drawn at random: logits (B, K, n, 1 ...) and the labels of their middle voxels."""
        padded, cut, labels = self.padded(images), [], []
        for image, target in zip(padded, targets, strict=True):
            places = self.draw(target)
            cut += [image[(slice(None), *(slice(p, p + PATCH) for p in place))] for place in places]
            labels.append(torch.stack([target[(..., *place)] for place in places], dim=-1))
        ones = (1,) * (self.dims - 1)
        logits = self.classify(torch.stack(cut)).flatten(1).unflatten(0, (len(images), -1)).transpose(1, 2)
        truth = torch.stack(labels)
        return objective(logits.reshape(*logits.shape, *ones), truth.reshape(*truth.shape, *ones))

    def draw(self, target: Tensor) -> list[tuple[int, ...]]:
        """Positions of patches in one target, (*S) or (R, *S)."""
        size = target.shape[-self.dims :]
        places = [tuple(int(torch.randint(n, ())) for n in size) for _ in range(self.patches)]
        found = ((target != 0) & (target != IGNORED)).reshape(-1, *size).any(dim=0).nonzero()
        for i in range(self.patches // 2 if len(found) else 0):
            places[i] = tuple(found[int(torch.randint(len(found), ()))].tolist())
        return places
