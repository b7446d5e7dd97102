"""ExFuse. Zhang, Zhang, Peng, Cheng, Sun, ECCV 2018, arXiv:1804.03821.

Low-level features lack meaning and high-level ones lack place, so adding them does little; each must first get what
it lacks. Early stages are given more units (8, 8, 9, 8) and must tell the classes in the image; each stage is
multiplied by what all deeper stages make of it (semantic embedding); the coarsest scores bring their own sub-pixels
(channel resolution embedding); and each position predicts all its neighbours, whose votes are averaged (densely
adjacent prediction). Around it stand the large kernels and the score ladder of the global convolutional network.
Differs from the paper: early stages tell the classes in the patch beside the segmentation (weight 0.1 here), where
the paper does so while the backbone is trained on tagged photographs. Not confirmed, as the authors' code is not
public: the norm after each convolution of the embedding, the length 15 of the large kernels, the 32x4d form of the
ResNeXt, that only the last scores vote for neighbours, and the start of the score ladder as linear upsampling. Volumes
have 8 sub-voxels and 27 neighbours.
Oracle: none kept; embedding and votes by their equations; ResNeXt-101 by its published count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.initial import keep_variance
from medseg.zoo.layers.large_kernel import BoundaryRefinement, GlobalConv
from medseg.zoo.layers.presence import presence_loss
from medseg.zoo.layers.shuffle import voxel_shuffle
from medseg.zoo.layers.upsample import learned_linear_up
from medseg.zoo.outputs import Outputs

SEMANTIC_WEIGHT = 0.1


class SemanticEmbedding(nn.Module):
    """Features of a stage times, for each deeper stage, its 3x3 convolution brought to that size (figure 4)."""

    def __init__(self, dims: int, channels: int, deeper: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvNormAct(dims, inputs, channels, 3) for inputs in deeper)

    def forward(self, x: Tensor, deeper: Sequence[Tensor]) -> Tensor:
        return prod((nd.resize(f(d), x.shape[2:]) for f, d in zip(self.convs, deeper, strict=True)), start=x)


def average_votes(x: Tensor, size: int = 3) -> Tensor:
    """Densely adjacent prediction: (B, size^D K, *S) -> (B, K, *S), equation 2.

    Channels come in size^D groups of K, one an offset, row-major. Group o at position p + o - centre votes for p;
    beyond the border nobody votes.
    """
    dims = x.ndim - 2
    groups = x.reshape(x.shape[0], size**dims, -1, *x.shape[2:]).unbind(dim=1)
    total = torch.zeros_like(groups[0])
    for group, offset in zip(groups, product(range(size), repeat=dims), strict=True):
        steps = [o - size // 2 for o in reversed(offset)]
        total = total + F.pad(group, [margin for step in steps for margin in (-step, step)])
    return total / size**dims


class SemanticSupervision(nn.Sequential):
    """Presence logits (B, K) from the features of an early stage: 3x3, mean over the image, linear."""

    def __init__(self, dims: int, channels: int, classes: int) -> None:
        super().__init__(
            ConvNormAct(dims, channels, channels, 3),
            (nn.AdaptiveAvgPool2d if dims == 2 else nn.AdaptiveAvgPool3d)(1),
            nn.Flatten(),
            nn.Linear(channels, classes),
        )


class ExFuse(nn.Module):
    """ExFuse on (B, in_channels, *S) -> logits (B, classes, *S).

    blocks: units of the four stages (None: as the backbone has them). kernel: length of the large kernels, odd.
    neighbours: positions along an axis that each position votes for. In training mode `extras["presence"]` are the
    early stages' logits (B, 3, classes) of the classes' presence; `training_step` adds their loss.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnext101",
        blocks: tuple[int, int, int, int] | None = (8, 8, 9, 8),
        kernel: int = 15,
        neighbours: int = 3,
    ) -> None:
        if kernel % 2 == 0 or neighbours % 2 == 0:
            raise ValueError(f"kernel is {kernel}, neighbours {neighbours}; both are odd")
        super().__init__()
        self.dims, self.divisor, self.neighbours = dims, (32,) * dims, neighbours
        changes = {} if blocks is None else {"blocks": tuple(blocks)}
        self.encoder = make_resnet(backbone, dims, in_channels, **changes)
        channels = self.encoder.channels
        self.embed = nn.ModuleList(
            SemanticEmbedding(dims, channels[i], channels[i + 1 :]) for i in range(len(channels))
        )
        outputs = (*(classes,) * (len(channels) - 1), classes * 2**dims)
        self.scores = nn.ModuleList(
            nn.Sequential(GlobalConv(dims, c, k, kernel), BoundaryRefinement(dims, k))
            for c, k in zip(channels, outputs, strict=True)
        )
        self.up = nn.ModuleList(learned_linear_up(dims, classes, 2) for _ in range(len(channels)))
        self.refine = nn.ModuleList(BoundaryRefinement(dims, classes) for _ in range(len(channels) + 1))
        self.vote = plain_conv(dims, classes, classes * neighbours**dims, 3)
        keep_variance(self.vote)
        self.semantic = nn.ModuleList(SemanticSupervision(dims, c, classes) for c in channels[:-1])

    def forward(self, x: Tensor) -> Tensor | Outputs:
        features: list[Tensor] = self.encoder(x)
        scores = [
            score(embed(feature, features[i + 1 :]))
            for i, (feature, embed, score) in enumerate(zip(features, self.embed, self.scores, strict=True))
        ]
        # The coarsest scores come with their own sub-pixels; all others are brought up by learned kernels.
        rising = [lambda s: voxel_shuffle(s, 2), *self.up]
        y = scores.pop()
        for up, refine in zip(rising, self.refine, strict=True):
            y = up(y)
            y = refine(y + scores.pop() if scores else y)
        logits = average_votes(self.vote(y), self.neighbours)
        if not self.training:
            return logits
        presence = [head(f) for head, f in zip(self.semantic, features[:-1], strict=True)]
        return Outputs(logits, extras={"presence": torch.stack(presence, dim=1)})

    def training_step(
        self,
        images: Tensor,
        targets: Tensor,
        objective: Callable[[Outputs, Tensor], Tensor],
        known: Tensor | None = None,
    ) -> Tensor:
        """The pipeline's loss on the logits, and the early stages' loss on the classes' presence."""
        outputs = self(images)
        presence = outputs.extras["presence"].unbind(dim=1)
        semantic = sum(presence_loss(logits, targets, self.dims, known) for logits in presence)
        return objective(outputs, targets) + SEMANTIC_WEIGHT * semantic
