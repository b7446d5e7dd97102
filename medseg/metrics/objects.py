"""Separate structures (lesions, nodules): which were found, which were invented."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medseg.metrics.pair import Mask, Pair, when_empty

Labels = npt.NDArray[Any]


class Found(NamedTuple):
    """Counts of structures: found, missed in the prediction, invented by it."""

    found: int
    missed: int
    invented: int


@when_empty(one=0.0)
def lesion_f1(pair: Pair, min_iou: float = 0.1) -> float | None:
    """2 found / (2 found + missed + invented), structure by structure. Baumgartner et al. 2021, arXiv:2106.00817,
    for the threshold of 0.1 on the IoU of a structure.

    >>> lesion_f1(Pair.of([1, 0, 0, 0, 1], [1, 0, 1, 0, 0]))     # one found, one missed, one invented
    0.5
    """
    counts = match_lesions(pair, min_iou)
    return 2 * counts.found / (2 * counts.found + counts.missed + counts.invented)


def match_lesions(pair: Pair, min_iou: float = 0.1) -> Found:
    """Pair structures one to one, the best IoU first; a pair counts as found from `min_iou` on."""
    pred, n_pred = components(pair.pred)
    true, n_true = components(pair.true)
    both = pair.pred & pair.true
    if not both.any():
        return Found(0, n_true, n_pred)
    touching, shared = np.unique(
        pred[both].astype(np.int64) * (n_true + 1) + true[both].astype(np.int64), return_counts=True
    )
    p, t = touching // (n_true + 1), touching % (n_true + 1)
    iou = shared / (np.bincount(pred.ravel())[p] + np.bincount(true.ravel())[t] - shared)
    found = 0
    free_p, free_t = np.ones(n_pred + 1, dtype=bool), np.ones(n_true + 1, dtype=bool)
    for i in np.lexsort((t, p, -iou)):
        if iou[i] >= min_iou and free_p[p[i]] and free_t[t[i]]:
            free_p[p[i]] = free_t[t[i]] = False
            found += 1
    return Found(found, n_true - found, n_pred - found)


def components(mask: Mask) -> tuple[Labels, int]:
    """Connected structures of a mask, numbered from 1, and how many; neighbours touch at a face, an edge or a corner.

    >>> components(np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=bool))[1]
    2
    """
    from scipy import ndimage

    labelled, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim, dtype=bool))
    return labelled, int(count)


def keep_largest(mask: Mask) -> Mask:
    """The largest structure of a mask; of several equal ones the first in array order.

    >>> keep_largest(np.array([1, 0, 1, 1], dtype=bool)).astype(int).tolist()
    [0, 0, 1, 1]
    """
    labelled, count = components(mask)
    if count < 2:
        return mask.copy()
    sizes = np.bincount(labelled.ravel())
    sizes[0] = 0
    return np.asarray(labelled == sizes.argmax())
