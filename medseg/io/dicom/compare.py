"""Whether what was read back from a written file is what was meant: voxels, and centroids in millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.io.dicom.read_seg import by_name
from medseg.io.dicom.stacks import Stack

CENTROID_ALLOWED_MM = 0.1


def require_same(
    back: Segmentation, masks: npt.NDArray[Any], infos: Sequence[ClassInfo], stack: Stack, where: str
) -> None:
    """Compares what was read back with what was meant, per class: voxel counts, and centroids in mm."""
    meant, places = measured_on(stack, masks, len(infos))
    found, found_places = _measured_back(back)
    names = by_name(back.classes)
    for number, info in enumerate(infos):
        at = names.get(info.name)
        count = 0 if at is None else int(found[at])
        if at is None or count != int(meant[number]):
            raise UserError(
                f"class {info.name}: {int(meant[number])} voxels were meant, {count} were read back; not kept",
                where,
                "write nifti instead and report this",
            )
        apart = float(np.linalg.norm(found_places[at] - places[number]))
        if apart > CENTROID_ALLOWED_MM:
            raise UserError(
                f"class {info.name} came back {apart:.2f} mm from its place; the file was not kept",
                where,
                "write nifti instead and report this",
            )


def measured_on(
    stack: Stack, masks: npt.NDArray[Any], count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Voxels (K,) and centroids (K, 3) in LPS mm of what the source pictures show, by the pictures' own positions."""
    first, totals, sums = stack.first, np.zeros(count), np.zeros((count, 3))
    for one, picture in zip(stack.slices, masks):
        counts, columns, rows = moments(picture, count)
        totals += counts
        sums += counts[:, None] * one.position
        sums += columns[:, None] * (first.along_columns * first.column_spacing)
        sums += rows[:, None] * (first.along_rows * first.row_spacing)
    return totals, sums / np.maximum(totals, 1)[:, None]


def _measured_back(back: Segmentation) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The same of a segmentation that was read, by its own affine."""
    count = len(back.classes)
    totals, sums = np.zeros(count), np.zeros((count, 3))
    table = np.zeros(int(back.labels.max(initial=0)) + 1, dtype=np.int64)
    for number, info in enumerate(back.classes):
        if info.index < len(table):
            table[info.index] = number + 1
    for k in range(back.geometry.shape[2]):
        if back.regions is None:
            picture = table[back.labels[:, :, k].T]
        else:
            picture = np.moveaxis(back.regions[..., k], 0, -1).transpose(1, 0, 2)
        counts, columns, rows = moments(picture, count)
        totals += counts
        sums += np.stack([columns, rows, counts * k], axis=1)
    world = back.geometry.to_world(sums / np.maximum(totals, 1)[:, None])
    return totals, world * (-1.0, -1.0, 1.0)


def moments(
    picture: npt.NDArray[Any], count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Voxels, sums of column numbers and sums of row numbers of every segment in one picture.

    picture: (rows, columns) of 1..count, or (rows, columns, count) of 0 and 1.
    """
    if picture.ndim == 3:
        down, across = picture.sum(axis=1, dtype=np.float64), picture.sum(axis=0, dtype=np.float64)
        return down.sum(axis=0), np.arange(len(across)) @ across, np.arange(len(down)) @ down
    rows, columns = np.nonzero(picture)
    if not len(rows):
        return np.zeros(count), np.zeros(count), np.zeros(count)
    values = picture[rows, columns]
    sums = [np.bincount(values, weights=w, minlength=count + 1)[1:] for w in (None, columns, rows)]
    counts, across, down = (s.astype(np.float64) for s in sums)
    return counts, across, down
