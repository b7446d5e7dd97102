"""A set of predicted masks against a set of true ones. Cheng et al. 2022, arXiv:2112.01527, sections 3.3 and 4."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.zoo.layers.deformable_attention import read_at

CLASS, MASK, DICE, NOTHING = 2.0, 5.0, 5.0, 0.1
"""Weights of the three losses, and of the class "nothing" in the first."""
POINTS, OVERSAMPLED, UNCERTAIN = 12544, 3, 0.75
"""Points a mask is compared at, how many more are drawn, and the share taken by uncertainty."""

BORDER = "border"
"""Masks go on beyond their outermost voxels; zeros would lay uncertain logits all around a small volume."""


class Truth(NamedTuple):
    """The classes one image shows (M,), a mask for each (M, 1, *S) and which voxels count (1, 1, *S), as floats."""

    classes: Tensor
    masks: Tensor
    counts: Tensor


def truths(masks: Tensor, counts: Tensor) -> list[Truth]:
    """From masks (B, K, *S) and counts (B, 1, *S): for each image those of the classes that it shows."""
    present = masks.flatten(2).amax(dim=2) > 0
    return [
        Truth(shown.nonzero()[:, 0], mask[shown][:, None], count[None].float())
        for shown, mask, count in zip(present, masks, counts, strict=True)
    ]


def set_loss(classes: Tensor, masks: Tensor, truth: list[Truth]) -> Tensor:
    """classes (B, Q, K + 1) and masks (B, Q, *s) as logits: each truth is matched to one query, the rest are nothing.

    2 cross-entropy + 5 binary cross-entropy + 5 Dice, the last two at points, mean over the masks of the batch.
    """
    classes, masks = classes.float(), masks.float()
    wanted = torch.full(classes.shape[:2], classes.shape[2] - 1, device=classes.device)
    total = classes.new_zeros(())
    for i, found in enumerate(truth):
        if not len(found.classes):
            continue
        chosen, order = match(classes[i], masks[i], found)
        wanted[i, chosen] = found.classes[order]
        total = total + mask_loss(masks[i, chosen][:, None], found.masks[order], found.counts)
    weights = torch.ones(classes.shape[2], device=classes.device)
    weights[-1] = NOTHING
    number = max(sum(len(found.classes) for found in truth), 1)
    return CLASS * F.cross_entropy(classes.transpose(1, 2), wanted, weights) + total / number


@torch.no_grad()
def match(classes: Tensor, masks: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
    """(queries, truths) of the cheapest one-to-one assignment, costs as the losses, at random points."""
    from scipy.optimize import linear_sum_assignment

    dims = masks.ndim - 1
    number = min(POINTS, math.prod(truth.masks.shape[2:]))
    places = 2 * torch.rand(1, number, dims, device=masks.device) - 1
    found = read_at(masks[None], places, BORDER)[0]
    true = read_at(truth.masks.transpose(0, 1), places, BORDER)[0]
    weight = read_at(truth.counts, places, BORDER)[0]
    positive, negative = F.softplus(-found) * weight, F.softplus(found) * weight
    entropy = (positive @ true.T + negative @ (1 - true).T) / weight.sum().clamp_min(1)
    share = found.sigmoid() * weight
    dice = 1 - (2 * share @ true.T + 1) / (share.sum(dim=1)[:, None] + (true * weight).sum(dim=1) + 1)
    cost = MASK * entropy + DICE * dice - CLASS * classes.softmax(dim=1)[:, truth.classes]
    rows, columns = linear_sum_assignment(cost.double().cpu().numpy())
    return torch.as_tensor(rows, device=masks.device), torch.as_tensor(columns, device=masks.device)


def mask_loss(found: Tensor, true: Tensor, counts: Tensor) -> Tensor:
    """5 binary cross-entropy + 5 Dice of logits (M, 1, *s) against masks (M, 1, *S), summed over the M masks."""
    places = uncertain_places(found, min(POINTS, math.prod(true.shape[2:])))
    logits, labels = read_at(found, places, BORDER)[:, 0], read_at(true, places, BORDER)[:, 0]
    weight = read_at(counts.expand_as(true), places, BORDER)[:, 0]
    entropy = F.binary_cross_entropy_with_logits(logits, labels, weight, reduction="none")
    share, labels = logits.sigmoid() * weight, labels * weight
    dice = 1 - (2 * (share * labels).sum(dim=1) + 1) / (share.sum(dim=1) + labels.sum(dim=1) + 1)
    return MASK * (entropy.sum(dim=1) / weight.sum(dim=1).clamp_min(1)).sum() + DICE * dice.sum()


@torch.no_grad()
def uncertain_places(masks: Tensor, number: int) -> Tensor:
    """(M, number, D) from -1 to 1: three quarters where logits (M, 1, *s) are nearest 0, the rest anywhere."""
    dims, kept = masks.ndim - 2, int(UNCERTAIN * number)
    drawn = 2 * torch.rand(len(masks), OVERSAMPLED * number, dims, device=masks.device) - 1
    nearest = read_at(masks, drawn, BORDER)[:, 0].abs().topk(kept, dim=1, largest=False).indices
    chosen = drawn.gather(1, nearest[..., None].expand(-1, -1, dims))
    anywhere = 2 * torch.rand(len(masks), number - kept, dims, device=masks.device) - 1
    return torch.cat([chosen, anywhere], dim=1)
