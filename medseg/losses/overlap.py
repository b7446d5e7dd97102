"""Losses on the overlap of soft masks: Dice, Tversky, Jaccard, generalised Dice. All are 1 - overlap, in 0 to 1.

Symbols: p probability, g target (0 or 1), both summed over voxels: I = sum p g, P = sum p, G = sum g.
With `batch_dice` the sums run over the batch first, which steadies small structures that are missing in some samples;
without it every sample has its own overlap. Classes that a sample's labels do not cover take no part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.losses.batch import Batch, masked

SMOOTH = 1.0e-5
TINY = 1.0e-8


@dataclass(frozen=True)
class OverlapSettings:
    """What all overlap losses share: which sums are taken and how classes are averaged."""

    include_background: bool = False
    batch_dice: bool = True
    class_weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Sums:
    """I, P and G per sample and class, (B, K) or (1, K) with `batch_dice`; `counted` says which entries exist."""

    intersection: Tensor
    probability: Tensor
    target: Tensor
    counted: Tensor
    class_weights: Tensor


def sums(batch: Batch, settings: OverlapSettings, squared: bool = False) -> Sums:
    """Sum probabilities and targets over space (and the batch); `squared` sums p**2 instead of p."""
    space = tuple(range(2, batch.probability.ndim))
    p = masked(batch.probability, batch.valid)
    intersection = (p * batch.target).sum(space)
    probability = (p * p if squared else p).sum(space)
    seen = batch.target if batch.valid is None else batch.target & batch.valid
    target = seen.sum(space).to(p.dtype)
    counted = batch.counted
    if settings.batch_dice:
        intersection, probability, target = (
            (value * counted).sum(0, keepdim=True) for value in (intersection, probability, target)
        )
        counted = counted.any(0, keepdim=True)
    first = 0 if settings.include_background or batch.labels is None else 1
    weights = torch.ones(p.shape[1], device=p.device)
    if settings.class_weights is not None:
        weights = torch.tensor(settings.class_weights, dtype=torch.float32, device=p.device)
    return Sums(
        intersection[:, first:],
        probability[:, first:],
        target[:, first:],
        counted[:, first:],
        weights[first:],
    )


def one_minus_mean(overlap: Tensor, s: Sums) -> Tensor:
    """1 - the weighted mean overlap of the counted entries; 0 (with a gradient of 0) when nothing is counted."""
    weight = s.counted * s.class_weights
    return ((1 - overlap) * weight).sum() / weight.sum().clamp_min(TINY)


def dice(batch: Batch, settings: OverlapSettings, *, smooth: float = SMOOTH, squared: bool = False) -> Tensor:
    """1 - (2 I + s) / (P + G + s). Drozdzal et al. 2016, arXiv:1608.04117, eq. 1; `squared` is V-Net's form
    with p**2 in P (Milletari et al. 2016, arXiv:1606.04797, section 3).

    A class that is nowhere in the target still counts: the loss then pushes its probability down.
    """
    s = sums(batch, settings, squared)
    return one_minus_mean(
        (2 * s.intersection + smooth) / (s.probability + s.target + smooth).clamp_min(TINY), s
    )


def jaccard(batch: Batch, settings: OverlapSettings, *, smooth: float = SMOOTH) -> Tensor:
    """1 - (I + s) / (P + G - I + s). Rahman and Wang 2016, doi:10.1007/978-3-319-50835-1_22, eq. 3."""
    s = sums(batch, settings)
    union = s.probability + s.target - s.intersection
    return one_minus_mean((s.intersection + smooth) / (union + smooth).clamp_min(TINY), s)


def tversky(
    batch: Batch, settings: OverlapSettings, *, alpha: float = 0.3, beta: float = 0.7, smooth: float = SMOOTH
) -> Tensor:
    """1 - (I + s) / (I + alpha FP + beta FN + s), FP = P - I, FN = G - I. Salehi et al. 2017, arXiv:1706.05721, eq. 2.

    beta above alpha makes a missed voxel dearer than an invented one; alpha = beta = 0.5 is Dice.
    """
    s = sums(batch, settings)
    false_positive = s.probability - s.intersection
    false_negative = s.target - s.intersection
    whole = s.intersection + alpha * false_positive + beta * false_negative
    return one_minus_mean((s.intersection + smooth) / (whole + smooth).clamp_min(TINY), s)


def generalised_dice(batch: Batch, settings: OverlapSettings, *, smooth: float = SMOOTH) -> Tensor:
    """1 - 2 sum_l w_l I_l / sum_l w_l (P_l + G_l), w_l = 1 / G_l**2. Sudre et al. 2017, arXiv:1707.03237, eq. 2.

    A class absent from the target would weigh infinitely: it takes the largest weight among those present (1 when
    none is), so that inventing it stays dear and the gradient finite.
    """
    s = sums(batch, settings)
    present = s.target > 0
    weight = torch.where(present, 1 / s.target.clamp_min(1).square(), 0.0)
    largest = weight.amax(dim=1, keepdim=True)
    weight = (
        torch.where(present, weight, torch.where(largest > 0, largest, 1.0)) * s.counted * s.class_weights
    )
    # weights are ratios only: with the largest at 1 the smoothing means the same for small and for large structures
    weight = weight / weight.amax(dim=1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    overlap = 2 * (weight * s.intersection).sum(1) + smooth
    whole = (weight * (s.probability + s.target)).sum(1) + smooth
    rows = s.counted.any(1).to(overlap.dtype)
    return ((1 - overlap / whole) * rows).sum() / rows.sum().clamp_min(1)
