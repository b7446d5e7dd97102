"""How well two divisions of one image into regions agree, where regions have numbers and no names."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Regions = npt.NDArray[np.integer[Any]]
Counts = npt.NDArray[np.int64]


def connected(labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Labels (*S) -> regions (*S) from 0 on: voxels of one label that touch by a face share a number.

    >>> connected([[1, 1, 0], [0, 1, 0], [1, 0, 0]]).tolist()
    [[0, 0, 1], [2, 0, 1], [3, 1, 1]]
    """
    from skimage.measure import label

    values = np.unique(np.asarray(labels), return_inverse=True)[1].reshape(np.shape(labels))
    return np.asarray(label(values, background=-1, connectivity=1), dtype=np.int64) - 1  # type: ignore[no-untyped-call]


def shared_voxels(found: npt.ArrayLike, reference: npt.ArrayLike) -> Counts:
    """Voxels that each region of the reference (rows) shares with each found region (columns).

    >>> shared_voxels([0, 0, 1, 1], [5, 5, 5, 7]).tolist()
    [[2, 1], [0, 1]]
    """
    columns = np.unique(np.asarray(found), return_inverse=True)[1].ravel()
    rows = np.unique(np.asarray(reference), return_inverse=True)[1].ravel()
    wide, high = int(columns.max()) + 1, int(rows.max()) + 1
    return np.bincount(rows * wide + columns, minlength=wide * high).reshape(high, wide)


def covering(found: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """C(S' -> S) = 1/N sum over R in S of |R| max over R' in S' of |R n R'| / |R u R'|.

    found: S', reference: S, regions (*S) by number. From 0 to 1, higher is better. Arbelaez et al. 2011,
    doi:10.1109/TPAMI.2010.161, eq. 9.

    >>> covering([0, 0, 0, 1], [0, 0, 1, 1])     # 2/4 of IoU 2/3, and 2/4 of IoU 1/2
    0.5833333333333333
    """
    both = shared_voxels(found, reference)
    sizes = both.sum(axis=1)
    overlap = both / (sizes[:, None] + both.sum(axis=0)[None, :] - both)
    return float((sizes * overlap.max(axis=1)).sum() / sizes.sum())
