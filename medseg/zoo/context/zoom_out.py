"""Zoom-out features (Feedforward-Net). Mostajabi, Yadollahpour, Shakhnarovich, CVPR 2015, arXiv:1412.0774.

A superpixel is classified by itself, without any structured prediction, from features of nested regions: the means
over it of all 13 convolution layers of VGG-16, fc7 of the box around its neighbourhood of radius 3, and fc7 of the
whole image, 4,224 + 4,096 + 4,096 numbers. A perceptron with two hidden layers of 1,024 says its class, trained with
weights that balance the classes.
Differs from the paper: fc7 of a neighbourhood is taken from features cropped to its box and resampled to 7 parts an
axis, where the paper warps the image itself; VGG-16 is trained along, as in the authors' later code, and features are
standardised by running means. Classes are balanced within the batch. In volumes there are 3 parts an axis and 1,024
channels. The split of the 12,416 numbers follows from their sum. Superpixels are SLIC's, without a step that joins
parts. Dropout (0.5) after either hidden layer is that of the later code.
Oracle: none kept; the published 12,416 features; means over superpixels by their definition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.encoders.vgg import VGG, VGG16, WIDTHS
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.label_masks import label_masks
from medseg.zoo.layers.superpixels import extents, mean_over, neighbours, slic, sum_over

RADIUS = 3
"""Steps from superpixel to superpixel that count as its neighbourhood."""


class Standardise(nn.Module):
    """(N, C) less the mean of each feature, over its deviation, both by running means that training and eval share."""

    mean: Tensor
    variance: Tensor
    seen: Tensor

    def __init__(self, features: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                values = x.detach().float()
                pace = torch.where(self.seen, self.momentum, 1.0)
                mean, variance = values.mean(dim=0), values.var(dim=0, unbiased=False)
                self.variance.lerp_(variance + (1 - pace) * (mean - self.mean).square(), pace)
                self.mean.lerp_(mean, pace)
                self.seen.fill_(True)
        return (x - self.mean) * torch.rsqrt(self.variance + 1e-3)


class ZoomOut(nn.Module):
    """Zoom-out network on (B, in_channels, *S) -> logits (B, classes, *S), one value a superpixel.

    superpixels: about how many an image is cut into. compactness: of SLIC. widths: of VGG-16's stages. fc_channels:
    of fc6 and fc7. parts: an axis into which fc6 sees a box cut (both None: 4096 and 7 in planes, 1024 and 3 in
    volumes). hidden: width of the perceptron.
    """

    undrawn_as_ignored = True

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        superpixels: int = 500,
        compactness: float = 0.5,
        widths: Sequence[int] = WIDTHS,
        fc_channels: int | None = None,
        parts: int | None = None,
        hidden: int = 1024,
    ) -> None:
        super().__init__()
        self.divisor, self.dims, self.classes = (16,) * dims, dims, classes
        self.superpixels, self.compactness = superpixels, compactness
        self.parts = parts or (7 if dims == 2 else 3)
        wide = fc_channels or (4096 if dims == 2 else 1024)
        self.encoder = VGG(dims, in_channels, widths, VGG16)
        self.fc = nn.Sequential(
            nn.Linear(widths[-1] * self.parts**dims, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU()
        )
        self.features = sum(w * n for w, n in zip(widths, VGG16, strict=True)) + 2 * wide
        self.classify = nn.Sequential(
            Standardise(self.features),
            nn.Linear(self.features, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, classes),
        )
        kaiming(self)

    def layers(self, x: Tensor) -> list[Tensor]:
        """Outputs of all convolution layers, finest first."""
        found: list[Tensor] = []
        for level, stage in enumerate(self.encoder.stages):
            x = self.encoder.pools[level - 1](x) if level else x
            for conv in stage:  # type: ignore[union-attr]
                x = conv(x)
                found.append(x)
        return found

    def describe(self, layers: Sequence[Tensor], label: Tensor, count: int) -> Tensor:
        """Zoom-out features (count, features) of the superpixels of one image.

        layers: each (C, *s). label: (*S), numbers below `count`.
        """
        flat = label.flatten()
        near = [mean_over(resized(layer.float(), label.shape).flatten(1).T, flat, count) for layer in layers]
        low, high = neighbourhoods(label, count)
        boxes = torch.cat([low, low.new_zeros(1, self.dims)]), torch.cat([high, high.new_ones(1, self.dims)])
        far = self.fc(cropped(layers[-1], *boxes, self.parts).flatten(1))
        return torch.cat([*near, far[:-1], far[-1:].expand(count, -1)], dim=1)

    def scores(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        """Class scores (B, count, K) of the superpixels, their labels (B, *S), and how many there are an image."""
        labels, count = slic(x, self.superpixels, self.compactness)
        layers = self.layers(x)
        described = [
            self.describe([layer[i] for layer in layers], label, count) for i, label in enumerate(labels)
        ]
        return self.classify(torch.cat(described)).reshape(len(x), count, self.classes), labels, count

    def forward(self, x: Tensor) -> Tensor:
        scores, labels, _ = self.scores(x)
        return torch.stack([s[label].movedim(-1, 0) for s, label in zip(scores, labels, strict=True)])

    def training_step(self, images: Tensor, targets: Tensor, objective: Callable[..., Any]) -> Tensor:
        """Cross-entropy on superpixels, each of the class most of its voxels have, all classes weighing the same.

        The recipe's own loss is not used."""
        scores, labels, count = self.scores(images)
        masks, _ = label_masks(targets, self.classes, self.dims)
        votes = [
            sum_over(mask.flatten(1).T, label.flatten(), count)
            for mask, label in zip(masks, labels, strict=True)
        ]
        vote = torch.stack(votes).flatten(0, 1)
        known = vote.sum(dim=1) > 0
        truth = vote.argmax(dim=1)[known]
        if not len(truth):
            return scores.sum() * 0
        share = torch.bincount(truth, minlength=self.classes).clamp_min(1)
        weights = len(truth) / share.float()
        return F.cross_entropy(scores.flatten(0, 1)[known].float(), truth, weights)


def resized(layer: Tensor, size: Sequence[int]) -> Tensor:
    """(C, *s) -> (C, *size), linearly."""
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return F.interpolate(layer[None], size=tuple(size), mode=mode)[0]


@torch.no_grad()
def neighbourhoods(label: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Box around what lies within RADIUS steps of each superpixel: low and high corners (count, D) in 0..1."""
    touching = neighbours(label, count)
    reached = torch.linalg.matrix_power(touching, RADIUS) > 0
    low, high = extents(label, count)
    size = low.new_tensor(label.shape)
    low = torch.where(reached[..., None], low[None], float("inf")).amin(dim=1)
    high = torch.where(reached[..., None], high[None] + 1, float("-inf")).amax(dim=1)
    empty = ~low.isfinite()
    return torch.where(empty, 0.0, low / size), torch.where(empty, 1.0, high / size)


def cropped(layer: Tensor, low: Tensor, high: Tensor, parts: int) -> Tensor:
    """(C, *s) -> (boxes, C, parts, ...): linear samples at the middles of the parts of each box (corners in 0..1)."""
    dims = layer.ndim - 1
    middles = (torch.arange(parts, device=layer.device, dtype=layer.dtype) + 0.5) / parts
    lines = [low[:, axis, None] + (high - low)[:, axis, None] * middles for axis in range(dims)]
    grids = [
        line.reshape(len(low), *(parts if a == axis else 1 for a in range(dims))).expand(-1, *(parts,) * dims)
        for axis, line in enumerate(lines)
    ]
    grid = 2 * torch.stack(grids[::-1], dim=-1) - 1  # grid_sample takes the last axis first
    # All boxes are one tall image, so that the features are not repeated for each.
    tall = grid.reshape(1, -1, *(parts,) * (dims - 1), dims)
    sampled = F.grid_sample(layer[None], tall.to(layer.dtype), align_corners=False, padding_mode="border")[0]
    return sampled.reshape(len(layer), len(low), *(parts,) * dims).transpose(0, 1)
