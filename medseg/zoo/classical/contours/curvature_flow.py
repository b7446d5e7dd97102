"""The morphological curvature flow SI o IS on binary regions, by shifts of whole arrays.

An erosion (dilation) with a small plane of voxels is a minimum (maximum) over a line of three, then over a second line,
so that four comparisons of bytes do what a general structuring element of nine does, with the same result. What
lies outside the image is outside the region.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Step = tuple[int, ...]

LINES: dict[int, tuple[tuple[Step, ...], ...]] = {
    2: (((1, 1),), ((1, 0),), ((1, -1),), ((0, 1),)),
    3: (
        ((1, 0, 0), (0, 1, 0)),
        ((1, 0, 0), (0, 0, 1)),
        ((0, 1, 0), (0, 0, 1)),
        ((1, 0, 0), (0, 1, 1)),
        ((1, 0, 0), (0, 1, -1)),
        ((0, 1, 0), (1, 0, 1)),
        ((0, 1, 0), (1, 0, -1)),
        ((0, 0, 1), (1, 1, 0)),
        ((0, 0, 1), (1, -1, 0)),
    ),
}
"""The structuring elements of two and three axes: segments through a voxel, and planes as pairs of segments."""

SLAB_VOXELS = 1 << 19
"""Voxels worked on at once: all arrays of a slab stay in the processor's cache."""


def smoothed(region: Mask, times: int, begun: int = 0) -> Mask:
    """The region after `times` steps of the flow; SI o IS and IS o SI take turns, `begun` steps were taken before."""
    for n in range(begun, begun + times):
        first, second = (inf_sup, sup_inf) if n % 2 == 0 else (sup_inf, inf_sup)
        region = second(first(region))
    return region


def sup_inf(region: Mask) -> Mask:
    """The union of the erosions with every structuring element."""
    return _slabs(region, np.logical_and, np.logical_or)


def inf_sup(region: Mask) -> Mask:
    """The intersection of the dilations with every structuring element."""
    return _slabs(region, np.logical_or, np.logical_and)


def _slabs(region: Mask, inner: Callable[..., Any], outer: Callable[..., Any]) -> Mask:
    padded = np.pad(region, 2)
    found = np.empty_like(region)
    thick = max(1, SLAB_VOXELS // max(1, region[0].size))
    for start in range(0, len(region), thick):
        end = min(start + thick, len(region))
        found[start:end] = _over_elements(padded[start : end + 4], inner, outer)
    return found


def _over_elements(padded: Mask, inner: Callable[..., Any], outer: Callable[..., Any]) -> Mask:
    """(*S) from an array that is two voxels wider on every side."""
    whole = None
    for lines in LINES[padded.ndim]:
        part, rim = padded, 2
        for line in lines:
            part, rim = _along(part, line, inner), rim - 1
        if rim:
            part = part[(slice(rim, -rim),) * part.ndim]
        whole = part if whole is None else outer(whole, part, out=whole)
    assert whole is not None
    return whole


def _along(array: Mask, line: Step, inner: Callable[..., Any]) -> Mask:
    """Each voxel with its two neighbours along a line, (*S) one voxel narrower on every side."""
    ahead = tuple(slice(1 + s, n - 1 + s) for s, n in zip(line, array.shape, strict=True))
    behind = tuple(slice(1 - s, n - 1 - s) for s, n in zip(line, array.shape, strict=True))
    found = inner(array[ahead], array[behind])
    return np.asarray(inner(found, array[(slice(1, -1),) * array.ndim], out=found))
