"""RPCNet, iterative pyramid contexts. Zhen, Wang, Zhou, Li, Shen, Shang, Fang, Quan, CVPR 2020, arXiv:2004.07684.

Segmentation and the boundaries of each class are two views of one thing, so their features take turns: each step
refines one task's features by the pyramid context of the other's, on three levels. The spatial gradient of the mask,
its difference from its own local mean, joins the boundary scores class by class, and must itself equal that of the
true mask (duality), so that boundaries come to lie where labels change.
Differs from the paper: boundaries come from the label map, 2 voxels to either side. Not confirmed, as no code is
public and only the abstract could be checked; these follow a re-implementation: stages 2, 3 and 5, four steps, bins
of 1, 3, 5 and 7 in the pyramid, norms inside it, and one head a task. The losses' weights of 1 are chosen here. In
volumes the pyramid has bins of 1 and 3, as convolutions over 7^3 cells would outweigh the network.
Oracle: none kept; the gradient and the fusion by their equations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.edges import label_edges
from medseg.zoo.layers.label_masks import label_masks
from medseg.zoo.layers.pooling import adaptive_pool
from medseg.zoo.outputs import Outputs

BOUNDARY_WEIGHT, DUALITY_WEIGHT = 1.0, 1.0


class PyramidContext(nn.Module):
    """x plus, for each size, one convolution over all cells of x pooled to that many cells along an axis."""

    def __init__(self, dims: int, channels: int, bins: Sequence[int]) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.convs = nn.ModuleList(ConvNormAct(dims, channels, channels, n, padding=0) for n in bins)

    def forward(self, x: Tensor) -> Tensor:
        return x + sum(conv(adaptive_pool(x, n)) for conv, n in zip(self.convs, self.bins, strict=True))


class PyramidContextModule(nn.Module):
    """Features of one task and those of the other (finest first) -> features of the first on the same grid.

    own + sum over the others of own * context, brought to own's size.
    """

    def __init__(self, dims: int, channels: int, others: int, bins: Sequence[int]) -> None:
        super().__init__()
        self.own = ConvNormAct(dims, channels, channels, 3)
        self.others = nn.ModuleList(
            nn.Sequential(ConvNormAct(dims, channels, channels, 3), PyramidContext(dims, channels, bins))
            for _ in range(others)
        )

    def forward(self, own: Tensor, others: Sequence[Tensor]) -> Tensor:
        own = self.own(own)
        contexts = [nd.resize(f(x), own.shape[2:]) for f, x in zip(self.others, others, strict=True)]
        return own + sum(own * context for context in contexts)


class Exchange(nn.ModuleList):
    """One step on all levels: each level's own features and the other task's of this level and coarser ones."""

    def __init__(self, dims: int, channels: int, levels: int, bins: Sequence[int], skip: int = 0) -> None:
        super().__init__(
            PyramidContextModule(dims, channels, levels - level - skip, bins) for level in range(levels)
        )
        self.skip = skip

    def forward(self, own: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
        return [
            f(x, others[level + self.skip :]) for level, (f, x) in enumerate(zip(self, own, strict=False))
        ]


def spatial_gradient(mask: Tensor, size: int = 3) -> Tensor:
    """|M - mean of M over size^D voxels| (equation 3); outside the image is not counted."""
    pool = F.avg_pool2d if mask.ndim == 4 else F.avg_pool3d
    return (mask - pool(mask, size, 1, size // 2, count_include_pad=False)).abs()


def class_boundaries(masks: Tensor, counts: Tensor, radius: int = 2) -> Tensor:
    """Voxels within `radius` of a change of each class: (B, K, *S) bool from masks and counts as `label_masks` has."""
    apart = masks.flatten(0, 1)[:, None]
    return label_edges(apart, counts.expand_as(masks).flatten(0, 1)[:, None], radius).reshape(masks.shape)


def balanced_bce(logits: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
    """Cross-entropy in which boundary and the rest weigh alike over the voxels that count."""
    counted = counts.expand_as(truth)
    share = (truth & counted).sum() / counted.sum().clamp_min(1)
    weights = torch.where(truth, 1 - share, share) * counted
    losses = F.binary_cross_entropy_with_logits(logits.float(), truth.float(), reduction="none")
    return (losses * weights).sum() / counted.sum().clamp_min(1)


class RPCNet(nn.Module):
    """RPCNet on (B, in_channels, *S) -> logits (B, classes, *S).

    steps: even; segmentation and boundaries take turns. bins: of the pyramids (None: 1, 3, 5, 7; in volumes 1, 3).
    In training mode `extras` has `boundary` logits and the mask's `gradient`, both (B, classes, *S).
    """

    undrawn_as_ignored = True

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        channels: int = 256,
        steps: int = 4,
        bins: Sequence[int] | None = None,
    ) -> None:
        if steps < 2 or steps % 2:
            raise ValueError(f"steps is {steps}; the two tasks take turns, so it is 2, 4, ...")
        super().__init__()
        self.dims, self.divisor = dims, (8,) * dims
        self.encoder = make_resnet(backbone, dims, in_channels, 8, deep_stem=True)
        widths = [self.encoder.channels[i] for i in (0, 1, 3)]
        sizes = tuple(bins or ((1, 3, 5, 7) if dims == 2 else (1, 3)))
        self.enter = nn.ModuleList(ConvNormAct(dims, w, channels, 3) for w in widths)
        self.first = Exchange(dims, channels, len(widths), sizes, skip=1)
        self.exchanges = nn.ModuleList(Exchange(dims, channels, len(widths), sizes) for _ in range(steps - 2))
        self.last = PyramidContextModule(dims, channels, len(widths), sizes)
        self.segment = plain_conv(dims, channels, classes, 1)
        self.boundary = plain_conv(dims, channels, classes, 1)
        self.fuse = plain_conv(dims, 2 * classes, classes, 1, groups=classes)

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        found: list[Tensor] = self.encoder(x)
        before = [enter(found[i]) for enter, i in zip(self.enter, (0, 1, 3), strict=True)]
        now = self.first(before, before)
        for exchange in self.exchanges:
            # What a task had two steps ago is refined by what the other task has now.
            before, now = now, exchange(before, now)
        logits = nd.resize(self.segment(now[0]), size)
        if not self.training:
            return logits
        edges = nd.resize(self.boundary(self.last(before[0], now)), size)
        gradient = spatial_gradient(torch.softmax(logits.float(), dim=1))
        return Outputs(logits, extras={"boundary": self.fused(edges, gradient), "gradient": gradient})

    def fused(self, edges: Tensor, gradient: Tensor) -> Tensor:
        """Sliced concatenation: the two maps of each class side by side, mixed class by class."""
        pairs = torch.stack([edges, gradient.to(edges.dtype)], dim=2).flatten(1, 2)
        return self.fuse(pairs)

    def training_step(
        self, images: Tensor, targets: Tensor, objective: Callable[[Outputs, Tensor], Tensor]
    ) -> Tensor:
        """The pipeline's loss on the mask, balanced cross-entropy of the boundaries, and duality."""
        outputs = self(images)
        masks, counts = label_masks(targets, outputs.main.shape[1], self.dims)
        boundary = balanced_bce(outputs.extras["boundary"], class_boundaries(masks, counts), counts)
        apart = (outputs.extras["gradient"] - spatial_gradient(masks)).abs() * counts
        duality = apart.sum() / (counts.sum() * masks.shape[1]).clamp_min(1)
        return objective(outputs, targets) + BOUNDARY_WEIGHT * boundary + DUALITY_WEIGHT * duality
