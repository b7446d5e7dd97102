"""Which classes an image shows: the target of losses on a whole image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def present_classes(targets: Tensor, classes: int, dims: int) -> Tensor:
    """(B, K) of 0 and 1.

    targets: (B, *S) class positions, values that are no class (255) left out; or (B, K, *S) masks of overlapping
    classes, 1 where a class is.
    """
    if targets.ndim == dims + 2:
        return (targets.flatten(2) == 1).any(dim=2).float()
    flat = targets.flatten(1).long()
    flat = torch.where((flat >= 0) & (flat < classes), flat, classes)
    found = torch.zeros(len(flat), classes + 1, device=flat.device).scatter_(1, flat, 1.0)
    return found[:, :classes]


def presence_loss(logits: Tensor, targets: Tensor, dims: int, known: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of (B, K) presence logits: large and small objects count alike.

    known: (B, K) bool, the classes that were drawn; of the others nobody knows whether the image shows them.
    """
    truth = present_classes(targets, logits.shape[1], dims)
    if known is None:
        return F.binary_cross_entropy_with_logits(logits.float(), truth)
    each = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="none")
    return (each * known).sum() / known.sum().clamp_min(1)
