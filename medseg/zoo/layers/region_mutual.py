"""Region mutual information. Zhao, Wang, Yang, Cai, NeurIPS 2019, arXiv:1910.12037."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.zoo.layers.label_masks import label_masks

RIDGE = 5e-4
"""Added to the diagonals of covariances, so that they can be inverted."""


def binary_entropy(logits: Tensor, masks: Tensor, counts: Tensor) -> Tensor:
    """Binary cross-entropy of each class, summed over classes, mean over the voxels that count."""
    loss = F.binary_cross_entropy_with_logits(logits.float(), masks, reduction="none")
    return (loss * counts).sum() / (counts.sum() + 1)


def region_mutual_loss(logits: Tensor, targets: Tensor, share: float = 0.5, pool: int = 4) -> Tensor:
    """share * binary cross-entropy + (1 - share) * the negative lower bound of the mutual information.

    logits (B, K, *S); targets (B, *S) class positions or (B, K, *S) masks, 255 left out. The bound is that of the
    paper's equation 12 for 3x3(x3) neighbourhoods of maps shrunk by `pool`; both grow in the same units, so the sum
    may be negative.
    """
    masks, counts = label_masks(targets, logits.shape[1], logits.ndim - 2)
    entropy = binary_entropy(logits, masks, counts)
    if share == 1:
        return entropy
    found = logits.float().sigmoid() * counts + 1e-6
    bound = _log_residual(_neighbourhoods(masks, pool), _neighbourhoods(found, pool))
    return share * entropy + (1 - share) * bound.mean(dim=0).sum().float()


def _neighbourhoods(maps: Tensor, pool: int) -> Tensor:
    """(B, K, *S) -> (B, K, 3^D, positions): the vectors of 3x3(x3) neighbours on the shrunk grid, in double."""
    dims = maps.ndim - 2
    shrink = F.avg_pool2d if dims == 2 else F.avg_pool3d
    windows = shrink(maps, pool, pool, padding=pool // 2)
    for axis in range(2, 2 + dims):
        windows = windows.unfold(axis, min(3, windows.shape[axis]), 1)
    return windows.double().flatten(2 + dims).flatten(2, 1 + dims).transpose(2, 3)


def _log_residual(truth: Tensor, found: Tensor) -> Tensor:
    """(B, K): half the log-determinant, a dimension, of what the found vectors leave unexplained of the true ones."""
    truth, found = (v - v.mean(dim=3, keepdim=True) for v in (truth, found))
    size = truth.shape[2]
    ridge = RIDGE * torch.eye(size, dtype=truth.dtype, device=truth.device)
    cross = truth @ found.transpose(2, 3)
    explained = cross @ torch.linalg.solve(found @ found.transpose(2, 3) + ridge, cross.transpose(2, 3))
    residual = truth @ truth.transpose(2, 3) - explained
    # Rounding may leave it a little unsymmetric, which Cholesky would read as it likes.
    factor = torch.linalg.cholesky((residual + residual.transpose(2, 3)) / 2 + ridge)
    return factor.diagonal(dim1=2, dim2=3).log().sum(dim=2) / size
