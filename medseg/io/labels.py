"""From an array read out of a file to labels: near-integers are rounded and said so, anything else is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError

NEAR = 0.01
"""How far from a whole number a label may lie and still be meant as that number (resampling leaves such values)."""

VALUES_SHOWN = 8


def as_labels(array: npt.NDArray[Any], where: str) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """(*S) of any number type -> (*S) of a small integer type, and notes.

    Raises UserError with values and voxel counts where labels are not whole numbers.

    >>> as_labels(np.array([0.0, 0.9999, 2.0]), "a.nii")
    (array([0, 1, 2], dtype=uint8), ('1 voxels had values that are nearly whole numbers; rounded',))
    """
    if array.dtype == np.bool_:
        return array.astype(np.uint8), ()
    if np.issubdtype(array.dtype, np.integer):
        return _small(array), ()
    whole = np.rint(array)
    with np.errstate(invalid="ignore"):
        away = np.abs(array - whole)
    bad = ~(away <= NEAR)  # NaN and infinity are bad as well
    if bad.any():
        raise UserError(
            f"is no label map: {int(bad.sum())} voxels are no whole numbers ({_listed(array[bad])})",
            where,
            "probabilities? Threshold them first; a resampled label map is made again with nearest neighbours",
        )
    rounded = int(np.count_nonzero(away))
    notes = (f"{rounded} voxels had values that are nearly whole numbers; rounded",) if rounded else ()
    return _small(whole.astype(np.int64)), notes


def refuse_channels(array: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """(1, *S) -> (*S); label maps have one value a voxel."""
    if array.shape[0] != 1:
        raise UserError(
            f"holds {array.shape[0]} values a voxel; a label map has one",
            path.name,
            "save each layer as a label file of its own",
        )
    return array[0]


def _small(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same whole numbers in the smallest type that holds them."""
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for kind in (np.uint8, np.uint16, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind, copy=False)
    return array.astype(np.int64, copy=False)


def _listed(values: npt.NDArray[Any]) -> str:
    found, counts = np.unique(values, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:VALUES_SHOWN]
    shown = ", ".join(f"{found[n]:.4g} in {counts[n]} voxels" for n in most)
    return shown + (f" and {len(found) - len(most)} more values" if len(found) > len(most) else "")
