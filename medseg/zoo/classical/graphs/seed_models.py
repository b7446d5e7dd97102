"""How likely a voxel's grey value or colour is under the seeds: smoothed histograms."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = {1: 64, 2: 24, 3: 16}
"""Bins an axis of the joint histogram by the number of channels; more channels are taken one by one."""


def log_likelihood(values: npt.NDArray[Any], seeds: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """ln Pr(I | seeds) (*S) for values (C, *S): the histogram of the seeds, blurred the wider the fewer they are.

    With up to three channels the histogram is joint; with more, channels count as independent. The blur is 1.5 bins
    and an eighth of all bins divided by the square root of the number of seeds.
    """
    if len(values) > 3:
        return np.sum([log_likelihood(v[None], seeds) for v in values], axis=0)
    from scipy import ndimage

    bins = BINS[len(values)]
    flat = values.reshape(len(values), -1).astype(np.float64)
    low, high = np.quantile(flat, [0.001, 0.999], axis=1)
    width = np.where(high > low, high - low, 1.0)
    index = np.clip(((flat - low[:, None]) / width[:, None] * bins).astype(np.int64), 0, bins - 1)
    code = np.ravel_multi_index(tuple(index), (bins,) * len(values))
    counts = np.bincount(code[seeds.ravel()], minlength=bins ** len(values)).astype(np.float64)
    smoothing = 1.5 + bins / 8 / np.sqrt(max(1, np.count_nonzero(seeds)))
    smooth = ndimage.gaussian_filter(counts.reshape((bins,) * len(values)), smoothing, mode="nearest").ravel()
    smooth = (smooth + 1e-4 * smooth.sum() / smooth.size + 1e-12) / (1 + 1e-4)
    return np.log(smooth / smooth.sum())[code].reshape(values.shape[1:])
