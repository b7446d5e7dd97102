"""What the image's numbers say: not-finite voxels, constant images, a range that no CT has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medseg.config import Data
from medseg.core.case import Image, count_not_finite
from medseg.core.errors import UserError

SMALLEST_CT = -3100.0
"""Padding of CT scanners goes down to about -3024."""


def check_voxels(image: Image, data: Data) -> tuple[dict[str, object], list[str]]:
    """Facts for the table, and reasons to look at the case.

    Raises UserError when voxels are NaN or infinite and data.not_finite is `error`, or when the image's own header
    names another kind of image than the pipeline.
    """
    _require_modality(image, data)
    count = count_not_finite(image.array)
    if count and data.not_finite == "error":
        share = 100 * count / image.array.size
        raise UserError(
            f"{count} of {image.array.size} voxels ({share:.3g} %) are NaN or infinite",
            hint="repair the image, or set data.not_finite: replace",
        )
    ranges = [_range(channel) for channel in image.array]
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    facts: dict[str, object] = {
        "dtype": str(image.array.dtype),
        "minimum": low,
        "maximum": high,
        "not_finite": count,
    }
    return facts, [
        *_constant(ranges),
        *_implausible(low, high, data.modality == "ct" or image.modality == "CT"),
    ]


def _require_modality(image: Image, data: Data) -> None:
    wanted = {"ct": "CT", "mr": "MR"}.get(data.modality)
    if wanted and image.modality in ("CT", "MR", "PT", "US") and image.modality != wanted:
        raise UserError(
            f"the image is {image.modality} by its header, but data.modality is {data.modality}",
            hint="take this case out, or correct data.modality",
        )


def _range(channel: npt.NDArray) -> tuple[float, float]:
    if channel.dtype.kind == "f":
        # fmin and fmax pass over NaN without a copy of the volume; infinities are left out by hand when present.
        low, high = float(np.fmin.reduce(channel, axis=None)), float(np.fmax.reduce(channel, axis=None))
        if not np.isfinite([low, high]).all():
            finite = channel[np.isfinite(channel)]
            return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
        return low, high
    return float(channel.min()), float(channel.max())


def _constant(ranges: list[tuple[float, float]]) -> list[str]:
    flat = [number for number, (low, high) in enumerate(ranges, 1) if low == high]
    if not flat:
        return []
    if len(ranges) == 1:
        return [f"the image is constant: every voxel is {ranges[0][0]:g}"]
    return [f"channel {number} is constant: every voxel is {ranges[number - 1][0]:g}" for number in flat]


def _implausible(low: float, high: float, is_ct: bool) -> list[str]:
    if not is_ct or low == high:
        return []
    if low >= 0:
        return [f"values from {low:g} to {high:g}: no CT in Hounsfield units has nothing below 0"]
    if low < SMALLEST_CT:
        return [f"values from {low:g} to {high:g}: below what CT scanners write; rescaled twice?"]
    return []


MOST_VALUES = 256
FEW_VALUES = 8
SAME_NEIGHBOURS = 0.9


def looks_like_mask(array: npt.NDArray) -> bool:
    """Whether the numbers (C, *S) are those of a label map: one channel of whole numbers from 0 up, either very few of
    them, or at most 256 that stand in patches of equal neighbours. Constant images are neither."""
    if len(array) != 1 or array.dtype.kind not in "iufb":
        return False
    # A sample tells almost every image at once; only what passes is looked at as a whole.
    sample = array.reshape(-1)[:: max(1, array.size // 4096)]
    seen = len(np.unique(sample))
    if not _whole(sample) or seen > MOST_VALUES or (seen > FEW_VALUES and not _patches(array)):
        return False
    found = np.unique(array) if _whole(array) else sample[:0]
    return 2 <= len(found) <= MOST_VALUES and (len(found) <= FEW_VALUES or _patches(array))


def _whole(array: npt.NDArray) -> bool:
    """No negative, broken or fractional number."""
    if array.dtype.kind != "f":
        return bool(array.min() >= 0)
    return bool(np.isfinite(array).all() and (array >= 0).all() and (array == np.floor(array)).all())


def _patches(array: npt.NDArray) -> bool:
    """Whether voxels that are not 0 have mostly the neighbour's number along the first axis."""
    one, next_one = array[0][:-1], array[0][1:]
    drawn = (one != 0) & (next_one != 0)
    return bool(drawn.any()) and float((one[drawn] == next_one[drawn]).mean()) >= SAME_NEIGHBOURS
