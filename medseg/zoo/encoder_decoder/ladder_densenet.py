"""Ladder-DenseNet. Kreso, Krapac, Segvic, ICCV workshops 2017 and IEEE T-ITS 2021, arXiv:1905.05661.

Recognition needs depth, drawing borders does not: a DenseNet reads the image down to a 64th, and a lean ladder of
one 3x3 convolution a step climbs back to a quarter, adding a 1x1 of the features of each size. Spatial pyramid
pooling at the bottom sees the image whole. Every rung is trained, and dense layers may be computed twice rather than
kept (`checkpointing`), which cuts the memory of training.
Differs from the paper: the coarser rungs are trained on the label in the middle of each cell instead of its class
shares. The grids of the pyramid follow the shortest axis where the authors take the height. Volumes use 3D layers.
Not confirmed: the rungs' share of the loss, 0.4; in the authors' code the last output has what is left to 1, but the
figure is an option of their training script, which is not public.
Oracle: none installed; counted by the layers of the authors' code, 10.34 M with 19 classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medseg.zoo.encoders.densenet import DenseBlock, DenseNet, PreConv
from medseg.zoo.layers import nd
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.outputs import Outputs

SHARE = 0.4
"""Of the loss, for all rungs together."""
GRIDS = (8, 4, 2, 1)
BLEND = 128
"""Widest input of a 3x3 convolution on the way up."""


class GridPooling(nn.Module):
    """Spatial pyramid pooling: means over grids of cells that are about as long as wide, each 1x1, mixed by 1x1.

    The grids have 8, 4, 2 and 1 cells along the shortest axis, longer axes more. (B, inputs, *s) -> (B, channels, *s).
    """

    def __init__(self, dims: int, inputs: int, channels: int, level: int) -> None:
        super().__init__()
        self.enter = PreConv(dims, inputs, channels, 1)
        self.levels = nn.ModuleList(PreConv(dims, channels, level, 1) for _ in GRIDS)
        self.fuse = PreConv(dims, channels + level * len(GRIDS), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        size = x.shape[2:]
        pool = F.adaptive_avg_pool2d if x.ndim == 4 else F.adaptive_avg_pool3d
        parts = [x]
        for grid, level in zip(GRIDS, self.levels, strict=True):
            cells = [max(1, round(grid * n / min(size))) for n in size]
            parts.append(nd.resize(level(pool(x, cells)), size))
        return self.fuse(torch.cat(parts, dim=1))


class Rung(nn.Module):
    """One step up: coarse features doubled, a 1x1 of the skip added, blended by 3x3, beside a residual shortcut.

    forward: coarse (B, inputs, *s), skip (B, C, *(2 s)) -> (B, outputs, *(2 s)).
    """

    def __init__(self, dims: int, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.lateral = PreConv(dims, skip, inputs, 1)
        narrow = inputs > BLEND
        self.blend = nn.Sequential(
            PreConv(dims, inputs, BLEND, 1) if narrow else nn.Identity(),
            PreConv(dims, BLEND if narrow else inputs, outputs, 3),
        )
        self.shortcut = PreConv(dims, inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        coarse = nd.resize(coarse, skip.shape[2:])
        return self.blend(self.lateral(skip) + coarse) + self.shortcut(coarse)


class LadderDenseNet(nn.Module):
    """Ladder-DenseNet on (B, in_channels, *S) -> logits (B, classes, *S).

    backbone: a DenseNet. split: whether its third block halves the image once more in its middle (strides to 64,
    else 32). widths: of the rungs, coarsest first; without `split` the first is left out; the pooling
    has twice the channels of the first. checkpointing: compute dense layers again in the backward pass.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "densenet121",
        split: bool = True,
        widths: Sequence[int] = (256, 256, 128, 128),
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.divisor = ((64 if split else 32),) * dims
        self.split, self.checkpointing = split, checkpointing
        self.encoder = DenseNet(dims, in_channels, backbone)
        self.encoder.entry[1] = nd.MAX_POOL[dims](2)
        self.encoder.last = nn.Identity()
        self.halve = nd.AVG_POOL[dims](2)
        skips = list(self.encoder.channels[:3])
        if split:
            third = self.encoder.blocks[2].layers
            skips.insert(2, third[len(third) // 2][0][0].num_features)
        self.pool = GridPooling(dims, self.encoder.channels[3], 2 * widths[0], max(widths[0] // 2, 1))
        ups = tuple(widths)[-len(skips) :]
        inputs = (2 * widths[0], *ups[:-1])
        self.rungs = nn.ModuleList(
            Rung(dims, i, s, o) for i, s, o in zip(inputs, reversed(skips), ups, strict=True)
        )
        self.heads = nn.ModuleList(PreConv(dims, i, classes, 1, bias=True) for i in inputs)
        self.classify = PreConv(dims, ups[-1], classes, 1, bias=True)
        kaiming(self)
        if checkpointing:
            self._slow_norms()

    def _slow_norms(self) -> None:
        """Norms of dense layers see a batch twice; their momentum m becomes 1 - sqrt(1 - m)."""
        for module in self.encoder.blocks.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None:
                module.momentum = 1 - (1 - module.momentum) ** 0.5

    def dense(self, block: DenseBlock, x: Tensor, split: bool) -> list[Tensor]:
        """The block's features; with `split` those before its halving first."""
        features, done = [x], []
        for number, layer in enumerate(block.layers):
            if split and number == len(block.layers) // 2:
                done.append(torch.cat(features, dim=1))
                features = [self.halve(done[0])]
            if self.checkpointing and self.training:
                new = checkpoint(
                    lambda *seen, f=layer: f(torch.cat(seen, dim=1)), *features, use_reentrant=False
                )
            else:
                new = layer(torch.cat(features, dim=1))
            features.append(new)
        return [*done, torch.cat(features, dim=1)]

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        x = self.encoder.entry(x)
        features: list[Tensor] = []
        for number, block in enumerate(self.encoder.blocks):
            x = self.encoder.transitions[number - 1](x) if number else x
            features += self.dense(block, x, self.split and number == 2)
            x = features[-1]
        x = self.pool(features.pop())
        others = []
        for rung, head in zip(self.rungs, self.heads, strict=True):
            if self.training:
                others.append(head(x))
            x = rung(x, features.pop())
        logits = nd.resize(self.classify(x), size)
        if not self.training:
            return logits
        weight = SHARE / (1 - SHARE) / len(others)
        return Outputs(logits, tuple(reversed(others)), (weight,) * len(others))
