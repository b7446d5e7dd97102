"""Which values a label map holds, and how often."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def value_counts(labels: npt.NDArray[Any]) -> dict[int, int]:
    """Value -> voxels. Small whole numbers are counted in pieces: bincount makes eight bytes of every voxel it sees."""
    if labels.size and labels.dtype.kind in "bui" and labels.min() >= 0 and labels.max() < 65536:
        flat, piece = labels.ravel(order="K"), 2**22
        counts = np.zeros(int(labels.max()) + 1, dtype=np.int64)
        for start in range(0, flat.size, piece):
            counts += np.bincount(flat[start : start + piece].astype(np.int32), minlength=counts.size)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, numbers = np.unique(labels, return_counts=True)
    return {int(value): int(number) for value, number in zip(values, numbers)}
