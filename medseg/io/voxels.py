"""What all readers of volumes share: channel axes, byte order, plausible spacing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry

SMALLEST_SPACING_MM = 1e-6
LARGEST_SPACING_MM = 100.0


def native(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array in this machine's byte order."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def channels_first(
    array: npt.NDArray[Any], axes: int, where: str, channels: bool, what: str = "volumes"
) -> npt.NDArray[Any]:
    """(*S) or (*S, N) -> (C, *S).

    axes: how many spatial axes there are. channels: whether the caller said that further values of a voxel are
    channels; otherwise more than one is refused, for a time series is no image of several channels.
    """
    if array.ndim == axes:
        return array[None]
    if array.shape[axes] > 1 and not channels:
        raise UserError(
            f"holds {array.shape[axes]} {what} on one grid (a time series, or channels)",
            where,
            "if they are channels of one image, name them under data.channels; else save the one you mean",
        )
    return np.moveaxis(array, -1, 0)


def check_spacing(geometry: Geometry, where: str) -> Geometry:
    """Raises UserError for voxels that are implausibly small or large in mm."""
    if not all(SMALLEST_SPACING_MM <= s <= LARGEST_SPACING_MM for s in geometry.spacing):
        raise UserError(
            f"voxels of {' x '.join(f'{s:.4g}' for s in geometry.spacing)} mm cannot be right",
            where,
            "the spacing or its unit in the header is wrong; correct it and export again",
        )
    return geometry


def grid(shape: tuple[int, ...], affine: npt.NDArray[np.float64], where: str) -> Geometry:
    """A checked grid in mm; errors name the file."""
    try:
        return check_spacing(Geometry(shape, affine), where)
    except UserError as err:
        err.where = err.where or where
        raise
