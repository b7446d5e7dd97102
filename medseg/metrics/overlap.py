"""Overlap of two masks, counted in voxels: TP in both, FP only predicted, FN only in the reference."""

from __future__ import annotations

from medseg.metrics.pair import Pair, when_empty


@when_empty(one=0.0)
def dice(pair: Pair) -> float | None:
    """2 TP / (2 TP + FP + FN). Dice 1945, doi:10.2307/1932409.

    >>> dice(Pair.of([0, 1, 1, 1], [0, 0, 1, 1]))
    0.8
    >>> dice(Pair.of([0, 0], [0, 1])), dice(Pair.of([0, 0], [0, 0]))
    (0.0, None)
    """
    return 2 * pair.true_positives / (pair.pred_voxels + pair.true_voxels)


@when_empty(one=0.0)
def iou(pair: Pair) -> float | None:
    """TP / (TP + FP + FN), the Jaccard index. Jaccard 1912, doi:10.1111/j.1469-8137.1912.tb05611.x.

    >>> iou(Pair.of([0, 1, 1, 1], [0, 0, 1, 1]))
    0.6666666666666666
    """
    return pair.true_positives / (pair.pred_voxels + pair.true_voxels - pair.true_positives)


@when_empty(one=0.0)
def precision(pair: Pair) -> float | None:
    """TP / (TP + FP): the share of the prediction that is right.

    >>> precision(Pair.of([0, 1, 1, 1], [0, 0, 1, 1]))
    0.6666666666666666
    """
    return pair.true_positives / pair.pred_voxels


@when_empty(one=0.0)
def recall(pair: Pair) -> float | None:
    """TP / (TP + FN), the sensitivity: the share of the reference that was found.

    >>> recall(Pair.of([0, 1, 1, 1], [0, 0, 1, 1]))
    1.0
    """
    return pair.true_positives / pair.true_voxels
