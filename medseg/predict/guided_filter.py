"""Borders between classes, moved from the network's coarse grid to the image's own edges.

The guided filter (He, Sun, Tang 2010, doi:10.1007/978-3-642-15549-9_1, eq. 5, 6 and 8; n-D here) fits, in every box
around a voxel, the best linear map from the image to the mask of a class, and takes the mean of all maps that cover the
voxel. Where image and mask have an edge in common the mask's edge becomes the image's; where the mask is constant it
stays. Masks sum to one and the filter keeps constants, so the class of the largest filtered mask is a labelling again.

The maps are smooth, so they are fitted on means of a few voxels and interpolated (He, Sun 2015, arXiv:1505.00996), and
only in the box that holds all borders: the cost is that of a few copies of the labels. What lies around the others has
what their filtered masks leave of one. Farther from a border than half the radius every voxel keeps its label.
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
from medseg.core.label_values import value_counts
from medseg.ingest.intensity import sample

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

BOX = 3
"""Half width of the boxes in cells of voxels: finer cells would not change the maps."""

BLOCK = 4_000_000
"""Voxels in which borders are looked for at once, about."""

PIECE = 200_000
"""Voxels near borders that are decided at once: what they take stays in the processor's cache, nearly."""


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

    def around(self, held: Sequence[slice], shape: Sequence[int]) -> tuple[slice, ...]:
        """Whole cells that decide every label near what `held` (voxels) encloses: a fit of fits reaches two boxes."""
        parts = []
        for place, length, cell, box, near in zip(held, shape, self.cell, self.box, self.near):
            margin = near + (2 * box + 1) * cell
            low, high = max(0, place.start - margin) // cell, -(-(place.stop + margin) // cell)
            parts.append(slice(low * cell, min(length, high * cell)))
        return tuple(parts)

    def cells(self, part: Sequence[slice]) -> tuple[slice, ...]:
        """The cells of a part that begins with whole ones."""
        return tuple(slice(p.start // c, -(-p.stop // c)) for p, c in zip(part, self.cell))


class Guide:
    """The image as the filter sees it: (*S) in 0..1, and its means over cells with mean and variance in their boxes."""

    def __init__(
        self, image: Array, intensity: Sequence[IntensityPlan], reach: Reach, epsilon: float
    ) -> None:
        plans = [*intensity, *[None] * len(image)]
        self.image = image
        self.scales = [_range(channel, plan) for channel, plan in zip(image, plans)]
        self.coarse = _shrink(self.at, image.shape[1:], reach.cell)
        self.middle = _mean(self.coarse, reach)
        self.spread = (
            _mean(self.coarse * self.coarse, reach) - self.middle * self.middle + np.float32(epsilon)
        )

    def at(self, place: Sequence[slice]) -> Floats:
        return _guide(self.image[(slice(None), *place)], self.scales)


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
    guide = Guide(image, intensity, reach, setting.epsilon)
    targets = [labels] if regions is None else list(regions)
    return sum(_follow(target, guide, reach, setting.iterations) for target in targets)


def working_bytes(shape: Sequence[int], spacing: Sequence[float], setting: GuidedFilter, classes: int) -> int:
    """Memory that `follow_edges` takes, about: two copies of the labels, the maps of all classes, and one block."""
    cells = prod(-(-n // c) for n, c in zip(shape, Reach.of(setting, spacing).cell))
    return 2 * prod(shape) + (8 * (classes + 1) + 40) * cells + 40 * min(prod(shape), BLOCK)


def _follow(target: Array, guide: Guide, reach: Reach, iterations: int) -> int:
    before = target.copy(order="K")
    for _ in range(iterations):
        if not _filter(target, guide, reach):
            break
    return int(np.count_nonzero(target != before))


def _filter(target: Array, guide: Guide, reach: Reach) -> bool:
    """One map of labels, once; borders are looked for in it as it was. Returns whether it changed."""
    from scipy.ndimage import find_objects

    ground = int(target[(0,) * target.ndim])
    values = [value for value in value_counts(target) if value != ground]
    if not values:
        return False
    part = reach.around(find_objects((target != ground).view(np.uint8), 1)[0], target.shape)
    labels = target[part]
    before = labels.copy(order="K")
    maps = list(_maps(before, values, guide, reach.cells(part), reach))
    for core, outer in _blocks(before, reach.near):
        inside = tuple(slice(c.start - o.start, c.stop - o.start) for c, o in zip(core, outer))
        band = _near_borders(before[outer], reach.near)[inside]
        if not band.any():
            continue
        seen = guide.at([slice(c.start + p.start, c.stop + p.start) for c, p in zip(core, part)])
        found = np.nonzero(band)
        for start in range(0, len(found[0]), PIECE):
            piece = tuple(places[start : start + PIECE] for places in found)
            at = [places + c.start for places, c in zip(piece, core)]
            labels[core][piece] = _winners(ground, values, maps, seen[piece], at, reach.cell)
    return bool((labels != before).any())


def _maps(
    labels: Array, values: Sequence[int], guide: Guide, cells: tuple[slice, ...], reach: Reach
) -> Iterator[tuple[Floats, Floats]]:
    """Slope and offset of each label's linear map on a part of the grid of cells: eq. 5, 6 and the means of eq. 8."""
    coarse, middle, spread = guide.coarse[cells], guide.middle[cells], guide.spread[cells]
    for value in values:
        mask = _shrink(partial(_is, labels, value), labels.shape, reach.cell)
        share = _mean(mask, reach)
        slope = (_mean(coarse * mask, reach) - middle * share) / spread
        yield _mean(slope, reach), _mean(share - slope * middle, reach)


def _mean(field: Floats, reach: Reach) -> Floats:
    """Means over the box around each cell; beyond the ends the last cell goes on."""
    from scipy.ndimage import uniform_filter

    smooth: Floats = uniform_filter(field, [2 * half + 1 for half in reach.box], mode="nearest")
    return smooth


def _is(labels: Array, value: int, place: Any) -> Floats:
    found: Floats = (labels[place] == value).astype(np.float32)
    return found


def _winners(
    ground: int,
    values: Sequence[int],
    maps: Sequence[tuple[Floats, Floats]],
    guide: Floats,
    places: Sequence[Array],
    cell: Sequence[int],
) -> Array:
    """The label of the largest filtered mask at some voxels (N); the lower one where two are equal.

    `ground` has no map: all masks sum to one.
    """
    corners = _corners(places, cell, maps[0][0].shape)
    best, winner = np.full(len(guide), -np.inf, np.float32), np.full(len(guide), values[0])
    rest = np.ones(len(guide), np.float32)
    for value, (slope, offset) in zip(values, maps):
        filtered = _between(slope, corners) * guide
        filtered += _between(offset, corners)
        rest -= filtered
        better = filtered > best
        best[better], winner[better] = filtered[better], value
    winner[(rest > best) | ((rest == best) & (winner > ground))] = ground
    return winner


def _corners(
    places: Sequence[Array], cell: Sequence[int], shape: Sequence[int]
) -> list[tuple[Array, Floats]]:
    """Linear interpolation between cells at some voxels: flat index and weight (N) of every cell that takes part.

    The same for all maps, which makes it several times as fast as scipy's map_coordinates. Beyond the outer cells'
    centres they go on.
    """
    corners: list[tuple[Array, Floats]] = [(np.zeros(1, np.intp), np.ones(1, np.float32))]
    for place, step, count in zip(places, cell, shape):
        at = np.clip((place + 0.5) / step - 0.5, 0, count - 1)
        low = at.astype(np.intp)
        share = (at - low).astype(np.float32)
        ends = [(low, 1 - share), (np.minimum(low + 1, count - 1), share)]
        # Cells of one voxel have all their centres on voxels.
        taken = ends if step > 1 else ends[:1]
        corners = [(index * count + end, weight * part) for index, weight in corners for end, part in taken]
    return corners


def _between(field: Floats, corners: Sequence[tuple[Array, Floats]]) -> Floats:
    flat = field.ravel()
    (index, weight), *others = corners
    total: Floats = flat[index] * weight
    for index, weight in others:
        total += flat[index] * weight
    return total


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
            plane = _shrink_axis(plane, axis, step)
        out[row] = plane
    return out


def _shrink_axis(plane: Floats, axis: int, step: int) -> Floats:
    """Means of every `step` neighbours along an axis; the last may be of fewer. Strided sums: reduceat takes four times as long."""
    if step == 1:
        return plane
    lines = np.moveaxis(plane, axis, 0)
    whole = len(lines) // step * step
    out = np.empty((-(-len(lines) // step), *lines.shape[1:]), np.float32)
    full = out[: whole // step]
    full[...] = lines[:whole:step]
    for offset in range(1, step):
        full += lines[offset:whole:step]
    full /= step
    if whole < len(lines):
        out[-1] = lines[whole:].mean(axis=0)
    return np.moveaxis(out, 0, axis)


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
