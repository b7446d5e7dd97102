"""UNet++. Zhou, Siddiquee, Tajbakhsh, Liang, DLMIA 2018, arXiv:1807.10165.

The skips of a U-Net become a nested grid: node X(i,j) at depth i convolves all earlier nodes of its depth together
with the upsampled node below, so encoder features are brought nearer to the decoder's before they meet. The nodes of
the finest depth all give a segmentation and are supervised, and a trained net can be pruned to any of them.
Differs from the paper: none in structure; counts and dropout are those of the authors' Keras code (0.5 after each
convolution, no norm). In eval mode the last head counts, as in the authors' default model; `net.average = True` gives
the mean of all four (the paper's "accurate mode"). Volumes use 3D layers; a training step on 96^3 voxels holds 6.8 GB
(counted), with `checkpointing` (size lean) 3.7 GB, that of size small 2.5 GB.
Oracle: MONAI 1.6 BasicUNetPlusPlus: the same grid with MONAI's blocks put into its nodes gives equal outputs
(MONAI's own widths, norm and activation are others); the authors' printed count of 9,041,601.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.outputs import Outputs


class Node(nn.Sequential):
    """Two 3x3 convolutions, each with dropout."""

    def __init__(self, dims: int, inputs: int, outputs: int, style: Style, dropout: float) -> None:
        super().__init__(
            ConvNormAct(dims, inputs, outputs, 3, style),
            nn.Dropout(dropout),
            ConvNormAct(dims, outputs, outputs, 3, style),
            nn.Dropout(dropout),
        )


def joined(node: nn.Module, *maps: Tensor) -> Tensor:
    """A node on maps of one size, which it sees side by side."""
    return node(torch.cat(maps, dim=1) if len(maps) > 1 else maps[0])


class UNetPlusPlus(nn.Module):
    """UNet++ on (B, in_channels, *S) -> logits (B, classes, *S).

    features: channels by depth. deep_supervision: supervise all nodes of the finest depth; in training mode these
    come as `auxiliary`, each with weight 1. `average`: whether eval mode gives the mean of all heads.
    checkpointing: keep what enters each node, not what it computes inside: less memory and a second forward pass in
    training, the same gradients.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        features: Sequence[int] = (32, 64, 128, 256, 512),
        norm: str = "none",
        dropout: float = 0.5,
        deep_supervision: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        depth = len(features) - 1
        self.checkpointing = checkpointing
        self.divisor = (2**depth,) * dims
        self.deep_supervision = deep_supervision
        self.average = False
        style = Style(norm)
        self.pool = nd.MAX_POOL[dims](2)
        inputs = (in_channels, *features[:-1])
        self.column = nn.ModuleList(
            Node(dims, i, o, style, dropout) for i, o in zip(inputs, features, strict=True)
        )
        self.up = nn.ModuleDict()
        self.node = nn.ModuleDict()
        for i in range(depth):
            for j in range(1, depth - i + 1):
                self.up[f"{i}_{j}"] = nd.CONV_TRANSPOSE[dims](features[i + 1], features[i], 2, 2)
                self.node[f"{i}_{j}"] = Node(dims, (j + 1) * features[i], features[i], style, dropout)
        count = depth if deep_supervision else 1
        self.heads = nn.ModuleList(nd.CONV[dims](features[0], classes, 1) for _ in range(count))
        kaiming(self)
        for module in self.modules() if checkpointing else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is not None:
                # It sees each batch twice: two steps of this momentum are one of the usual.
                module.momentum = 1 - (1 - module.momentum) ** 0.5

    def computed(self, node: nn.Module, *maps: Tensor) -> Tensor:
        """What a node makes of maps of one size."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(joined, node, *maps, use_reentrant=False)
        return joined(node, *maps)

    def grid(self, x: Tensor) -> list[Tensor]:
        """The nodes X(0,0) ... X(0,depth) of the finest depth."""
        rows: list[list[Tensor]] = []
        for i, block in enumerate(self.column):
            rows.append([self.computed(block, x if i == 0 else self.pool(rows[i - 1][0]))])
            for above in reversed(range(i)):
                j = i - above
                up = self.up[f"{above}_{j}"](rows[above + 1][j - 1])
                rows[above].append(self.computed(self.node[f"{above}_{j}"], *rows[above], up))
        return rows[0]

    def forward(self, x: Tensor) -> Tensor | Outputs:
        nodes = self.grid(x)[1:]
        if not self.deep_supervision:
            return self.heads[0](nodes[-1])
        if not self.training and not self.average:
            return self.heads[-1](nodes[-1])
        logits = [head(node) for head, node in zip(self.heads, nodes, strict=True)]
        if self.training:
            others = tuple(reversed(logits[:-1]))
            return Outputs(logits[-1], others, (1.0,) * len(others))
        return torch.stack(logits).mean(dim=0)
