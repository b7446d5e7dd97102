"""Volumes and their errors. On photographs and on single planes the same functions give areas.

Volumes describe, they do not judge: their means are plain means, so a miss shows as a bias. `volume_error_percent`
judges: its mean takes the size of each error, at most 100, so that no error is worse than a missed structure.
"""

from __future__ import annotations

from medseg.metrics.pair import Pair

MM3_PER_ML = 1000.0


def volume(pair: Pair) -> float | None:
    """Volume of the prediction: ml of a 3D mask, mm^2 of a plane, px of a photograph. 0 for an empty mask.

    >>> import numpy as np
    >>> box = np.ones((10, 10, 4), dtype=bool)
    >>> volume(Pair.of(box, box, spacing=[1, 1, 2.5]))
    1.0
    """
    return pair.pred_voxels * _unit(pair)


def reference_volume(pair: Pair) -> float | None:
    """Volume of the reference, as `volume` has it."""
    return pair.true_voxels * _unit(pair)


def volume_error(pair: Pair) -> float | None:
    """Predicted minus true volume; above 0 where the prediction is too large. None where both masks are empty.

    >>> volume_error(Pair.of([1, 1, 1, 0], [1, 0, 0, 0]))
    2.0
    >>> volume_error(Pair.of([0], [0])) is None
    True
    """
    if not (pair.pred_voxels or pair.true_voxels):
        return None
    return (pair.pred_voxels - pair.true_voxels) * _unit(pair)


def volume_error_percent(pair: Pair) -> float | None:
    """100 (predicted - true) / true volume: -100 for a missed structure, +100 by convention for an invented one.

    >>> volume_error_percent(Pair.of([1, 1, 1, 0], [1, 1, 0, 0]))
    50.0
    >>> volume_error_percent(Pair.of([0, 0], [1, 0])), volume_error_percent(Pair.of([1, 0], [0, 0]))
    (-100.0, 100.0)
    """
    if not pair.true_voxels:
        return 100.0 if pair.pred_voxels else None
    return 100.0 * (pair.pred_voxels - pair.true_voxels) / pair.true_voxels


def capped_size(value: float) -> float:
    """What a mean takes of a volume error in percent: its size, at most 100.

    >>> capped_size(-12.5), capped_size(340.0)
    (12.5, 100.0)
    """
    return min(abs(value), 100.0)


def _unit(pair: Pair) -> float:
    """ml a voxel in 3D, mm^2 or px a pixel in 2D."""
    return pair.voxel_size / MM3_PER_ML if len(pair.shape) == 3 else pair.voxel_size
