"""Borders between classes, moved from the network's coarse grid to the image's own edges.

The guided filter (He, Sun, Tang 2010, doi:10.1007/978-3-642-15549-9_1, eq. 5, 6 and 8; n-D here) fits, in every box
around a voxel, the best linear map from the image to the mask of a class, and takes the mean of all maps that cover the
voxel. Where image and mask have an edge in common the mask's edge becomes the image's; where the mask is constant it
stays. Masks sum to one and the filter keeps constants, so the class of the largest filtered mask is a labelling again.

The maps are smooth, so they are fitted on means of a few voxels and interpolated (He, Sun 2015, arXiv:1505.00996), and
only where a border is near: the cost is that of a few copies of the labels. Farther from a border than half the radius
every voxel keeps its label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.config_planned import IntensityPlan
from medseg.config_types import GuidedFilter
from medseg.ingest.intensity import sample

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

BOX = 3
"""Half width of the boxes in cells of voxels: finer cells would not change the maps."""

BLOCK = 4_000_000
"""Voxels in which borders are looked for at once, about."""


@dataclass(frozen=True)
class Reach:
    """The radius on one grid. cell: voxels that are taken together; box: half width of the boxes in cells; near: half
    width in voxels of the band around borders; an axis each."""

    cell: tuple[int, ...]
    box: tuple[int, ...]
    near: tuple[int, ...]

    @classmethod
    def of(cls, setting: GuidedFilter, spacing: Sequence[float]) -> Reach:
        radius = [setting.radius_mm / s for s in spacing]
        cell = [max(1, round(r / BOX)) for r in radius]
        box = [round(r / c) for r, c in zip(radius, cell)]
        return cls(tuple(cell), tuple(box), tuple(max(1, round(r / 2)) for r in radius))


def follow_edges(
    labels: Array,
    regions: Mask | None,
    image: Array,
    spacing: Sequence[float],
    setting: GuidedFilter,
    intensity: Sequence[IntensityPlan] = (),
) -> int:
    """Changes labels (*S), or regions (R, *S) where classes overlap, in place. Returns how many voxels changed.

    Repeated `iterations` times: a border that lies farther from its edge than the first fit reaches comes nearer with
    every one, and stays where image and mask agree. A mask that misses the larger part of what looks like it within the
    radius is not completed but shrinks.
    image: (C, *S) on the same grid; the mean of its channels, each scaled to 0..1 by the plan's window or else by its
    0.5 and 99.5 percentiles, is the guide. spacing: mm (px for photographs), like the radius.
    """
    reach = Reach.of(setting, spacing)
    plans = [*intensity, *[None] * len(image)]
    scales = [_range(channel, plan) for channel, plan in zip(image, plans)]

    def guide(place: Any) -> Floats:
        return _guide(image[(slice(None), *place)], scales)

    coarse = _shrink(guide, image.shape[1:], reach.cell)
    targets = [labels] if regions is None else list(regions)
    return sum(_follow(target, guide, coarse, reach, setting) for target in targets)


def working_bytes(shape: Sequence[int], spacing: Sequence[float], setting: GuidedFilter, classes: int) -> int:
    """Memory that `follow_edges` takes, about: two copies of the labels, the maps of all classes, and one block."""
    cells = prod(-(-n // c) for n, c in zip(shape, Reach.of(setting, spacing).cell))
    return 2 * prod(shape) + (8 * (classes + 1) + 40) * cells + 40 * min(prod(shape), BLOCK)


def _follow(
    target: Array, guide: Callable[[Any], Floats], coarse: Floats, reach: Reach, setting: GuidedFilter
) -> int:
    before = target.copy(order="K")
    for _ in range(setting.iterations):
        if not _filter(target, guide, coarse, reach, setting.epsilon):
            break
    return int(np.count_nonzero(target != before))


def _filter(
    target: Array, guide: Callable[[Any], Floats], coarse: Floats, reach: Reach, epsilon: float
) -> bool:
    """One map of labels, once; borders are looked for in it as it was. Returns whether it changed."""
    before = target.copy(order="K")
    values = _values(before)
    if len(values) < 2:
        return 0
    maps = list(_maps(before, values, coarse, reach, epsilon))
    for core, outer in _blocks(before, reach.near):
        inside = tuple(slice(c.start - o.start, c.stop - o.start) for c, o in zip(core, outer))
        band = _near_borders(before[outer], reach.near)[inside]
        if not band.any():
            continue
        places = [p + c.start for p, c in zip(np.nonzero(band), core)]
        block = target[core]
        block[band] = _winners(values, maps, guide(core)[band], places, reach.cell)
    return bool((target != before).any())


def _maps(
    labels: Array, values: Sequence[int], guide: Floats, reach: Reach, epsilon: float
) -> Iterator[tuple[Floats, Floats]]:
    """Slope and offset of each label's linear map on the grid of cells: eq. 5, 6 and the means of eq. 8."""
    from scipy.ndimage import uniform_filter

    size = [2 * half + 1 for half in reach.box]

    def mean(field: Floats) -> Floats:
        smooth: Floats = uniform_filter(field, size, mode="nearest")
        return smooth

    middle = mean(guide)
    spread = mean(guide * guide) - middle * middle + np.float32(epsilon)
    for value in values:
        mask = _shrink(partial(_is, labels, value), labels.shape, reach.cell)
        share = mean(mask)
        slope = (mean(guide * mask) - middle * share) / spread
        yield mean(slope), mean(share - slope * middle)


def _is(labels: Array, value: int, place: Any) -> Floats:
    found: Floats = (labels[place] == value).astype(np.float32)
    return found


def _winners(
    values: Sequence[int],
    maps: Sequence[tuple[Floats, Floats]],
    guide: Floats,
    places: Sequence[Array],
    cell: Sequence[int],
) -> Array:
    """The label of the largest filtered mask at some voxels (N); the lower one where two are equal."""
    from scipy.ndimage import map_coordinates

    at = np.stack([(p + 0.5) / c - 0.5 for p, c in zip(places, cell)]).astype(np.float32)
    best, winner = np.full(len(guide), -np.inf, np.float32), np.full(len(guide), values[0])
    for value, (slope, offset) in zip(values, maps):
        filtered = map_coordinates(slope, at, order=1, mode="nearest") * guide
        filtered += map_coordinates(offset, at, order=1, mode="nearest")
        better = filtered > best
        best[better], winner[better] = filtered[better], value
    return winner


def _near_borders(labels: Array, near: Sequence[int]) -> Mask:
    """Voxels with another label within `near` voxels along each axis."""
    from scipy.ndimage import maximum_filter, minimum_filter

    plain = labels.view(np.uint8) if labels.dtype == np.bool_ else labels
    size = [2 * n + 1 for n in near]
    found: Mask = maximum_filter(plain, size) != minimum_filter(plain, size)
    return found


def _shrink(values: Callable[[Any], Floats], shape: Sequence[int], cell: Sequence[int]) -> Floats:
    """Means over cells of voxels (*ceil(S / cell)); cells at the end may be smaller."""
    out = np.empty([-(-n // c) for n, c in zip(shape, cell)], np.float32)
    for row in range(out.shape[0]):
        planes = values(
            (slice(row * cell[0], min(shape[0], (row + 1) * cell[0])), *(slice(0, n) for n in shape[1:]))
        )
        plane = planes.mean(axis=0)
        for axis, step in enumerate(cell[1:]):
            starts = np.arange(0, plane.shape[axis], step)
            counts = np.diff([*starts, plane.shape[axis]])
            plane = np.add.reduceat(plane, starts, axis=axis)
            plane /= counts.reshape([-1 if a == axis else 1 for a in range(plane.ndim)])
        out[row] = plane
    return out


def _guide(image: Array, scales: Sequence[tuple[float, float]]) -> Floats:
    """One guide (*S) in 0..1 from channels (C, *S)."""
    guide = np.zeros(image.shape[1:], np.float32)
    for channel, (low, high) in zip(image, scales):
        values = (channel.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-8))
        guide += np.clip(values, 0, 1)
    return guide / np.float32(len(scales))


def _range(channel: Array, plan: IntensityPlan | None) -> tuple[float, float]:
    if (
        plan is not None
        and plan.low is not None
        and plan.high is not None
        and plan.scheme in ("window", "ct")
    ):
        return plan.low, plan.high
    low, high = np.percentile(sample(channel), (0.5, 99.5))
    return float(low), float(high)


def _values(labels: Array) -> list[int]:
    found: set[int] = set()
    for plane in labels:
        found.update(np.unique(plane).tolist())
    return sorted(found)


def _blocks(labels: Array, near: Sequence[int]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Blocks of whole planes of the slowest axis, and each with the planes around it that decide its borders."""
    axis = int(np.argmax(np.abs(labels.strides)))
    length = labels.shape[axis]
    step = max(1, BLOCK * length // max(1, labels.size))
    for start in range(0, length, step):
        core, outer = ([slice(0, n) for n in labels.shape] for _ in range(2))
        core[axis] = slice(start, min(length, start + step))
        outer[axis] = slice(max(0, start - near[axis]), min(length, start + step + near[axis]))
        yield tuple(core), tuple(outer)
