"""Morphology in millimetres and components, on boolean volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def distance_mm(mask: Mask, spacing_mm: Sequence[float]) -> npt.NDArray[np.float32]:
    """Distance of each voxel of the mask to the nearest voxel outside it, in mm; the image's border is no border."""
    import edt

    if mask.all():
        return np.full(mask.shape, np.inf, dtype=np.float32)
    contiguous = np.ascontiguousarray(mask)
    return np.asarray(edt.edt(contiguous, anisotropy=tuple(spacing_mm), black_border=False, parallel=1))


def dilated(mask: Mask, radius_mm: float, spacing_mm: Sequence[float]) -> Mask:
    """All voxels within `radius_mm` of the mask."""
    return mask | (distance_mm(~mask, spacing_mm) <= radius_mm) if mask.any() else mask


def eroded(mask: Mask, radius_mm: float, spacing_mm: Sequence[float]) -> Mask:
    """The voxels of the mask farther than `radius_mm` from its outside."""
    return mask & (distance_mm(mask, spacing_mm) > radius_mm)


def closed(mask: Mask, radius_mm: float, spacing_mm: Sequence[float]) -> Mask:
    """Closing: dents and channels narrower than twice `radius_mm` are filled."""
    return mask | eroded(dilated(mask, radius_mm, spacing_mm), radius_mm, spacing_mm)


def components(mask: Mask, connectivity: int = 6) -> tuple[npt.NDArray[Any], int]:
    """(labels, count) of face-connected (6) or fully connected (26) components of a volume."""
    import cc3d

    labels, count = cc3d.connected_components(
        np.ascontiguousarray(mask), connectivity=connectivity, return_N=True
    )
    return labels, int(count)


def filled(mask: Mask, spacing_mm: Sequence[float], largest_mm2: float) -> Mask:
    """Fills the holes of the volume, and those of its slices across the last axis up to `largest_mm2` in area.

    A vessel that enters from outside is a hole in slices only; the limit keeps the dome of the diaphragm open.
    """
    from scipy import ndimage

    parts = [ndimage.binary_fill_holes(mask[..., z]) for z in range(mask.shape[-1])]
    holes = np.stack(parts, axis=-1) & ~mask
    in_plane = np.zeros((3, 3, 3), dtype=bool)
    in_plane[1, :, 1] = in_plane[:, 1, 1] = True
    labels, count = ndimage.label(holes, structure=in_plane)
    small = np.bincount(labels.ravel(), minlength=count + 1) * spacing_mm[0] * spacing_mm[1] <= largest_mm2
    small[0] = False
    return np.asarray(ndimage.binary_fill_holes(mask | small[labels]))


def extent(mask: Mask, axis: int) -> tuple[int, int]:
    """First and last index along an axis that the mask has."""
    there = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
    return (int(there[0]), int(there[-1])) if there.size else (0, -1)
