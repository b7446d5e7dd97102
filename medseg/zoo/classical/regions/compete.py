"""Seeded growth of several regions at once, the most similar voxel first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medseg.zoo.classical.grey import Grey

STEPS = 32
"""Stages of similarity between the most and the least similar voxel."""


def compete(grey: Grey, labels: npt.NDArray[np.int64], tolerance: float = np.inf) -> npt.NDArray[np.int64]:
    """Labels (*S) after growth: unknown voxels (0) that touch a region join the one whose mean is nearest to them.

    Voxels within a small difference join first, then the limit rises in steps up to `tolerance` (in grey
    values), so that the order is the paper's to within a step. Means follow what has joined. Voxels out of
    reach stay 0.
    """
    wide_grey = np.pad(grey, 1).ravel()
    wide = np.pad(labels, 1, constant_values=-1)
    strides = [int(np.prod(wide.shape[axis + 1 :])) for axis in range(wide.ndim)]
    offsets = np.array([sign * stride for stride in strides for sign in (-1, 1)])
    shape, flat = wide.shape, wide.ravel()
    sums = np.bincount(flat[flat > 0], weights=wide_grey[flat > 0])
    sizes = np.bincount(flat[flat > 0]).astype(np.float64)
    top = min(tolerance, float(grey.max() - grey.min()))
    front = _around(np.flatnonzero(flat > 0), offsets, flat)
    last = np.full(flat.size, -np.inf)
    for step in range(1, STEPS + 1):
        limit = top * step / STEPS
        waiting = [front]
        # A voxel that was too far when last looked at is looked at again when the limit reaches it, or a neighbour joins.
        front = front[last[front] <= limit] if step < STEPS else front
        while len(front):
            label, last[front] = _nearest(front, offsets, flat, wide_grey, sums / np.maximum(sizes, 1))
            joins = last[front] <= limit
            taken, label = front[joins], label[joins]
            flat[taken] = label
            sums += np.bincount(label, weights=wide_grey[taken], minlength=len(sums))
            sizes += np.bincount(label, minlength=len(sizes))
            front = _around(taken, offsets, flat)
            waiting.append(front)
        every = np.unique(np.concatenate(waiting))
        front = every[flat[every] == 0]
    inner = tuple(slice(1, -1) for _ in shape)
    return np.asarray(flat.reshape(shape)[inner])


def _around(
    places: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], flat: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The unknown voxels that touch the given ones."""
    near = (places[:, None] + offsets).ravel()
    return np.unique(near[flat[near] == 0])


def _nearest(
    front: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
    flat: npt.NDArray[np.int64],
    grey: Grey,
    means: Grey,
) -> tuple[npt.NDArray[np.int64], Grey]:
    """For each voxel the region beside it with the nearest mean, and how far that mean is."""
    beside = flat[front[:, None] + offsets]
    apart = np.where(beside > 0, np.abs(grey[front][:, None] - means[np.maximum(beside, 0)]), np.inf)
    best = apart.argmin(axis=1)
    rows = np.arange(len(front))
    return beside[rows, best], apart[rows, best]
