"""Numbers of the scanner -> numbers of the network, by the scheme that the plan wrote down.

MONAI's ScaleIntensityRange and NormalizeIntensity do the same arithmetic (a test holds it) but want the whole volume
in float32 at once and four seconds of import before a prediction can start; here a slab is changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.config import IntensityPlan
from medseg.core.errors import UserError

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

PERCENTILE_SAMPLES = 2_000_000
"""Voxels that percentiles are taken from: their error is then below 0.1 percentile points."""

SMALLEST_SCALE = 1e-8


def changer(array: Array, plan: IntensityPlan, outside: Array | None = None) -> Callable[[Floats], Floats]:
    """The change of one channel (*S) as a function of float32 slabs, which it alters in place.

    outside: booleans (*S) of voxels that the scheme zscore_mask leaves out of its statistics.
    Raises UserError when the channel holds NaN or infinite numbers.
    """
    low, high, shift, scale = plan.low, plan.high, plan.shift, plan.scale
    if plan.scheme == "percentile":
        low = 0.5 if plan.low is None else plan.low
        high = 99.5 if plan.high is None else plan.high
        low, high = _percentiles(array, (low, high))
        shift, scale = moments(array, low, high)
    elif plan.scheme in ("zscore", "zscore_mask"):
        low = high = None
        shift, scale = moments(array, outside=outside if plan.scheme == "zscore_mask" else None)
    _require_finite(array)

    def change(slab: Floats) -> Floats:
        if low is not None or high is not None:
            np.clip(slab, low, high, out=slab)
        slab -= np.float32(shift)
        slab /= np.float32(max(scale, SMALLEST_SCALE))
        return slab

    return change


def apply(array: Array, plan: IntensityPlan, outside: Array | None = None) -> Floats:
    """The whole channel (*S) at once, as float32; voxels `outside` are 0 under zscore_mask."""
    out = changer(array, plan, outside)(np.array(array, dtype=np.float32))
    if outside is not None and plan.scheme == "zscore_mask":
        out[outside] = 0
    return out


def moments(
    array: Array, low: float | None = None, high: float | None = None, outside: Array | None = None
) -> tuple[float, float]:
    """Mean and standard deviation (population) of the clipped channel, summed in float64 slab by slab."""
    count, total, square, anchor = 0, 0.0, 0.0, float(array.flat[0])
    for index in range(array.shape[0]):
        values = np.asarray(array[index], dtype=np.float64)
        if outside is not None:
            values = values[~outside[index]]
        if low is not None or high is not None:
            values = np.clip(values, low, high)
        # Around the first value: squares of large offsets would eat the digits that matter.
        values = values - anchor
        count += values.size
        total += float(values.sum())
        square += float(np.vdot(values, values))
    if count == 0:
        return 0.0, 1.0
    mean = total / count
    return anchor + mean, float(np.sqrt(max(0.0, square / count - mean**2)))


def sample(array: Array, count: int = PERCENTILE_SAMPLES) -> Array:
    """About `count` voxels on an even lattice, flat."""
    stride = max(1, round((array.size / count) ** (1 / array.ndim)))
    return array[tuple(slice(None, None, stride) for _ in range(array.ndim))].ravel()


def _percentiles(array: Array, which: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(sample(array), which)
    return float(low), float(high)


def _require_finite(array: Array) -> None:
    if not np.issubdtype(array.dtype, np.floating):
        return
    bad = sum(int(np.count_nonzero(~np.isfinite(plane))) for plane in array)
    if bad:
        raise UserError(
            f"{bad} of {array.size} voxels are NaN or infinite",
            hint="repair the image, or set data.not_finite: replace",
        )
