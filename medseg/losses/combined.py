"""Sums of two losses: the overlap steers whole structures, the entropy every voxel."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from medseg.losses.batch import Batch
from medseg.losses.entropy import cross_entropy
from medseg.losses.overlap import SMOOTH, OverlapSettings, dice


def dice_ce(
    batch: Batch,
    settings: OverlapSettings,
    *,
    dice_weight: float = 1.0,
    ce_weight: float = 1.0,
    smooth: float = SMOOTH,
    sum_regions: bool = False,
) -> Tensor:
    """dice_weight * Dice + ce_weight * CE. Isensee et al. 2021, doi:10.1038/s41592-020-01008-z (nnU-Net), methods.

    Class weights act on the cross-entropy alone; Dice gives each class its share anyhow.
    nnU-Net prints the same loss minus 1, since it takes - Dice where this room takes 1 - Dice; gradients are equal.
    """
    overlap = dice(batch, replace(settings, class_weights=None), smooth=smooth)
    entropy = cross_entropy(batch, class_weights=settings.class_weights, sum_regions=sum_regions)
    return dice_weight * overlap + ce_weight * entropy
