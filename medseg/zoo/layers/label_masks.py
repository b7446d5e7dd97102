"""Labels as one mask a class, for losses that look at each class alone."""

from __future__ import annotations

import torch
from torch import Tensor


def label_masks(targets: Tensor, classes: int, dims: int) -> tuple[Tensor, Tensor]:
    """Masks (B, K, *S) of 0 and 1 and which voxels count, (B, 1, *S) bool.

    targets: (B, *S) class positions, values that are no class (255) left out; or (B, K, *S) masks of overlapping
    classes, left out where any holds another value than 0 and 1.
    """
    if targets.ndim == dims + 2:
        counts = (targets <= 1).all(dim=1, keepdim=True)
        return ((targets == 1) & counts).float(), counts
    counts = ((targets >= 0) & (targets < classes))[:, None]
    positions = torch.where(counts, targets[:, None].long(), 0)
    masks = torch.zeros(len(targets), classes, *targets.shape[1:], device=targets.device)
    return masks.scatter_(1, positions, 1.0) * counts, counts
