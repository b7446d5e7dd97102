"""Losses per voxel on the log probability of the truth: cross-entropy, and its focal form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from medseg.losses.batch import Batch


def cross_entropy(
    batch: Batch, *, class_weights: tuple[float, ...] | None = None, sum_regions: bool = False
) -> Tensor:
    """- mean of log p_true over the valid voxels: softmax for classes, binary per region (Goodfellow et al., Deep
    Learning, 2016, eq. 6.13 and section 6.2.2.3).

    With `class_weights` the mean is weighted by the weight of the true class. For regions the mean runs over the
    known regions as well; `sum_regions` adds regions up instead, which is nnU-Net's form for labels with ignored voxels.
    """
    return _mean(_minus_log_true(batch), batch, class_weights, sum_regions)


def focal(batch: Batch, *, class_weights: tuple[float, ...] | None = None, gamma: float = 2.0) -> Tensor:
    """- mean of (1 - p_true)**gamma log p_true. Lin et al. 2017, arXiv:1708.02002, eq. 4; `class_weights` are its alpha.

    gamma = 0 is cross-entropy; the larger gamma, the less the voxels count that are right already.
    """
    minus_log = _minus_log_true(batch)
    # 1 - p through expm1: exact where p is near 1, and the power's gradient stays finite at p = 1 for gamma below 1
    wrong = (-torch.expm1(-minus_log)).clamp_min(torch.finfo(minus_log.dtype).eps)
    return _mean(wrong.pow(gamma) * minus_log, batch, class_weights, sum_regions=False)


def _minus_log_true(batch: Batch) -> Tensor:
    """-log of the probability given to the truth: (B, 1, *S) for classes, (B, K, *S) for regions."""
    if batch.labels is None:
        return functional.binary_cross_entropy_with_logits(
            batch.logits, batch.target.float(), reduction="none"
        )
    return functional.cross_entropy(batch.logits, batch.labels, reduction="none")[:, None]


def _mean(values: Tensor, batch: Batch, class_weights: tuple[float, ...] | None, sum_regions: bool) -> Tensor:
    """Mean over what counts: valid voxels, known regions, weighted by class."""
    weight = (
        torch.ones_like(values) if batch.valid is None else batch.valid.expand_as(values).to(values.dtype)
    )
    if batch.labels is None:
        weight = weight * batch.counted.reshape(*batch.counted.shape, *[1] * (values.ndim - 2))
    if class_weights is not None:
        weight = weight * _weight_map(batch, class_weights)
    total = weight.sum()
    if sum_regions and batch.labels is None:
        total = total / batch.counted.shape[1]
    return (values * weight).sum() / total.clamp_min(1.0e-8)


def _weight_map(batch: Batch, class_weights: tuple[float, ...]) -> Tensor:
    """The weight of each voxel's true class (B, 1, *S), or of each region (1, K, 1 ...)."""
    weights = torch.tensor(class_weights, dtype=torch.float32, device=batch.logits.device)
    if batch.labels is None:
        return weights.reshape(1, -1, *[1] * (batch.logits.ndim - 2))
    return weights[batch.labels][:, None]
