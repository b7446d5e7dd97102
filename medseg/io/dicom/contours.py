"""Masks of one picture <-> closed polygons: what a structure set stores instead of voxels.

Polygons run half way between the centres of voxels inside and outside (marching squares, Lorensen & Cline 1987, at
the level 0.5 of a 0/1 mask), so filling one by the rule "is the voxel's centre inside" gives back the mask voxel for
voxel, and its area differs from the mask's by half a pixel. A hole is joined to its outline by a channel of no width
(a keyhole, DICOM PS3.3 C.8.8.6.3): any program that fills by parity or by winding leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[np.float64]
"""(N, 2) of (column, row) in pixels, voxel centres at whole numbers; the last point is joined to the first."""


def outlines(mask: npt.NDArray[np.bool_]) -> list[Ring]:
    """(rows, columns) -> one polygon a connected part (pixels that touch at a corner only are apart), holes joined in.

    Every polygon has at least four points and an area: a single pixel becomes a rhombus.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    low = np.array([columns[0], rows[0]], dtype=np.float64)
    part = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    rings = [ring + (low - 1) for ring in _level_lines(part)]
    outer = [ring for ring in rings if _area(ring) > 0]
    holes: list[list[Ring]] = [[] for _ in outer]
    for hole in (ring for ring in rings if _area(ring) < 0):
        around = [n for n, ring in enumerate(outer) if _contains(ring, hole[0])]
        holes[min(around, key=lambda n: _area(outer[n]))].append(hole)
    return [_joined(ring, inside) for ring, inside in zip(outer, holes)]


def _level_lines(mask: npt.NDArray[np.bool_]) -> list[Ring]:
    """Closed lines around the parts of a mask (positive area) and around its holes (negative area)."""
    from skimage.measure import find_contours

    level_lines: Any = find_contours  # without types
    lines = level_lines(mask.astype(np.float64), 0.5, fully_connected="low", positive_orientation="low")
    return [_without_idle_points(line[:-1, ::-1]) for line in lines]


def _without_idle_points(ring: Ring) -> Ring:
    """The ring without points that lie on the straight line between their neighbours."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9]


def _area(ring: Ring) -> float:
    """The signed area in pixels (the shoelace formula)."""
    following = np.roll(ring, -1, axis=0)
    return float((ring[:, 0] * following[:, 1] - ring[:, 1] * following[:, 0]).sum() / 2.0)


def _contains(ring: Ring, point: npt.NDArray[np.float64]) -> bool:
    start, end = ring, np.roll(ring, -1, axis=0)
    crosses = (start[:, 1] <= point[1]) != (end[:, 1] <= point[1])
    start, end = start[crosses], end[crosses]
    at = start[:, 0] + (point[1] - start[:, 1]) * (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1])
    return bool(np.count_nonzero(at > point[0]) % 2)


def _joined(outer: Ring, holes: list[Ring]) -> Ring:
    """The outline with its holes, the nearest one first, each joined by a channel of no width."""
    ring = outer
    waiting = list(holes)
    while waiting:
        links = [_nearest(ring, hole) for hole in waiting]
        first = min(range(len(waiting)), key=lambda n: links[n][0])
        _, here, there = links[first]
        hole = np.roll(waiting.pop(first), -there, axis=0)
        ring = np.concatenate([ring[: here + 1], hole, hole[:1], ring[here:]])
    return ring


def _nearest(ring: Ring, hole: Ring) -> tuple[float, int, int]:
    """The least squared distance between points of two rings, and which points these are."""
    apart = ((ring[:, None] - hole[None]) ** 2).sum(axis=-1)
    here, there = np.unravel_index(int(apart.argmin()), apart.shape)
    return float(apart[here, there]), int(here), int(there)


def filled(rings: Sequence[Ring], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(rows, columns): pixels whose centre lies inside an odd number of the rings.

    A centre on an edge counts as inside on the left and upper side of a shape and as outside on the others, so that
    neighbours share no pixel.
    """
    rows, columns = shape
    mask = np.zeros(shape, dtype=np.bool_)
    if not rings:
        return mask
    # Only the box around the rings is worked on: most are small beside their picture.
    ends = np.concatenate([[ring.min(axis=0), ring.max(axis=0)] for ring in rings])
    left, top = np.clip(np.floor(ends.min(axis=0)), 0, (columns, rows)).astype(int)
    right, bottom = np.clip(np.ceil(ends.max(axis=0)) + 1, 0, (columns, rows)).astype(int)
    if right <= left or bottom <= top:
        return mask
    toggles = np.zeros((bottom - top, right - left + 1), dtype=np.uint8)
    for row, at in (_crossings(ring, rows) for ring in rings):
        np.add.at(toggles, (row - top, np.clip(np.ceil(at), left, right).astype(np.intp) - left), 1)
    odd = np.cumsum(toggles[:, :-1], axis=1, dtype=np.uint8) & 1
    mask[top:bottom, left:right] = odd.astype(np.bool_)
    return mask


def _crossings(ring: Ring, rows: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Where a ring crosses the lines through the pixels' centres: rows, and columns as real numbers."""
    start, end = ring, np.roll(ring, -1, axis=0)
    # Both ways through a channel have to give the same number to the last bit.
    turned = start[:, 1] > end[:, 1]
    upper, lower = np.where(turned[:, None], end, start), np.where(turned[:, None], start, end)
    first = np.clip(np.ceil(upper[:, 1]), 0, rows).astype(np.intp)
    last = np.clip(np.ceil(lower[:, 1]), 0, rows).astype(np.intp)
    count = np.maximum(last - first, 0)
    edge = np.repeat(np.arange(len(ring)), count)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    upper, lower = upper[edge], lower[edge]
    slope = (lower[:, 0] - upper[:, 0]) / (lower[:, 1] - upper[:, 1])
    return row, upper[:, 0] + (row - upper[:, 1]) * slope
