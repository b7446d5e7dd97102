"""What each source picture shows of a result: its labels, picture by picture, in the order of the stack."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.io.dicom.class_names import labelled
from medseg.io.dicom.read_seg import place_on
from medseg.io.dicom.stacks import Stack, geometry_of


def empty_classes(seg: Segmentation) -> tuple[str, ...]:
    """Names of the classes without a voxel, which a DICOM segmentation leaves out."""
    return tuple(info.name for n, info in enumerate(seg.classes) if not seg.mask(n).any())


def masks_on(seg: Segmentation, stack: Stack) -> tuple[npt.NDArray[Any], tuple[ClassInfo, ...]]:
    """What each source picture shows, in the order of the stack, and the classes that have voxels there, `labelled`.

    (slices, rows, columns) of segment numbers 1..N, or (slices, rows, columns, N) of 0 and 1 where classes overlap.
    """
    placed = _on_stack(replace(seg, classes=labelled(seg.classes)), stack)
    present = _present(placed.labels) if placed.regions is None else None
    infos = [
        info
        for n, info in enumerate(placed.classes)
        if (placed.mask(n).any() if present is None else info.index < len(present) and present[info.index])
    ]
    if present is None or placed.regions is not None:
        assert placed.regions is not None
        keep = [n for n, info in enumerate(placed.classes) if info in infos]
        return placed.regions[keep].transpose(3, 2, 1, 0).astype(np.uint8), tuple(infos)
    table = np.zeros(len(present), dtype=np.uint8 if len(infos) < 255 else np.uint16)
    for number, info in enumerate(infos):
        table[info.index] = number + 1
    return table[placed.labels.transpose(2, 1, 0)], tuple(infos)


def pictures_on(seg: Segmentation, stack: Stack) -> npt.NDArray[Any]:
    """The label map as (slices, rows, columns), one a source picture, in the order of the stack."""
    return _on_stack(seg, stack).labels.transpose(2, 1, 0)


def _present(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Voxels of every label value, slice by slice: counting needs eight bytes a voxel."""
    counts = np.zeros(int(labels.max(initial=0)) + 1, dtype=np.int64)
    for k in range(labels.shape[2]):
        counts += np.bincount(labels[:, :, k].ravel(), minlength=len(counts))
    return counts


def _on_stack(seg: Segmentation, stack: Stack) -> Segmentation:
    """The segmentation with one slice a source picture, axes as (columns, rows, slices)."""
    grid = grid_of(stack)
    even = bool(np.abs(np.diff(stack.places, 2)).max(initial=0.0) < 0.05 * grid.spacing[2])
    if even:
        placed = place_on(seg, grid)
        if placed.geometry.same_grid(grid, tolerance_voxels=0.05):
            return placed
        seg.geometry.require_same_grid(grid, "the segmentation", "the source series", "")
    return _nearest_slices(seg, stack, grid)


def grid_of(stack: Stack) -> Geometry:
    """The even grid (columns, rows, slices) through the pictures of a stack."""
    count = len(stack.slices)
    way = float(stack.places[-1] - stack.places[0])
    return geometry_of(stack, way / (count - 1) if count > 1 else stack.first.thickness or 1.0, count)


def _nearest_slices(seg: Segmentation, stack: Stack, grid: Geometry) -> Segmentation:
    """Of a resampled series: for every source picture the slice of the segmentation nearest to it."""
    positions = np.array([s.position for s in stack.slices]) * (-1.0, -1.0, 1.0)
    index = seg.geometry.to_index(positions)
    same_plane = np.abs(seg.geometry.affine[:3, :2] - grid.affine[:3, :2]).max() < 1e-3
    if not same_plane or seg.geometry.shape[:2] != grid.shape[:2] or np.abs(index[:, :2]).max() > 0.05:
        seg.geometry.require_same_grid(grid, "the segmentation", "the source series", "")
    nearest = np.clip(np.rint(index[:, 2]).astype(int), 0, seg.geometry.shape[2] - 1)
    regions = None if seg.regions is None else seg.regions[..., nearest]
    return replace(seg, labels=seg.labels[..., nearest], geometry=grid, regions=regions)
