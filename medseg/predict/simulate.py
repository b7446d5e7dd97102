"""Prompts made from a label, by stated rules, to measure interactive methods without a person.

What is made knows part of the answer, so scores of it are those of a person who never errs; `Prompt.source` says so.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from medseg.config_types import Prompts
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.prompt import BACKGROUND_SEED, Prompt
from medseg.core.segmentation import Segmentation

Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

RULES = {
    "points": "the centre-most voxel of each class's largest part and of the background, further points among those "
    "at least half as deep",
    "box": "the box around each class, widened by a share of the image's size",
    "scribbles": "the skeleton of each class, and a shell around all of them for the background",
}
"""What `predict.prompt.simulate` makes, in words."""

SIMULATED = "simulated from the label"
"""How the source of such a prompt begins."""

MOST_VOXELS = 4_000_000
"""Larger regions are looked at in every second, third ... voxel."""


def simulated(label: Segmentation, settings: Prompts, case: str) -> Prompt:
    """The prompt of a case by `settings.simulate`: patient mm or px, or a mask on the label's grid.

    The same label, seed and case name give the same prompt. Raises UserError for a label without any class.
    """
    masks = {
        position + 1: np.asarray(label.mask(position))
        for position in range(len(label.classes))
        if np.any(label.mask(position))
    }
    if not masks:
        raise UserError("no prompt can be simulated: the label has none of the classes", f"case {case}")
    rng = np.random.default_rng([settings.seed, zlib.crc32(case.encode())])
    grid = label.geometry
    source = f"{SIMULATED}: {RULES[settings.simulate]}"
    if settings.simulate == "box":
        boxes = [_box(mask, grid, settings.margin_percent) for mask in masks.values()]
        return Prompt(boxes=np.stack(boxes), box_classes=np.array(list(masks)), source=source)
    outside = ~np.logical_or.reduce(list(masks.values()))
    if settings.simulate == "scribbles":
        return Prompt(mask=_scribbles(masks, outside, grid, settings.margin_percent), source=source)
    found = {value: deep_points(mask, grid, settings.points, rng) for value, mask in masks.items()}
    if outside.any():
        found[0] = deep_points(outside, grid, settings.points, rng)
    places = np.concatenate(list(found.values()))
    classes = np.repeat(list(found), [len(p) for p in found.values()])
    return Prompt(points=_world(places, grid), point_classes=classes, source=source)


def deep_points(mask: Mask, grid: Geometry, count: int, rng: np.random.Generator) -> Places:
    """Voxels (N, D) of a mask: the deepest of its largest connected part, then others at least half as deep."""
    from scipy import ndimage

    low, part, step = _thinned(mask)
    names, parts = ndimage.label(part)
    if parts > 1:
        part = names == int(np.bincount(names.ravel())[1:].argmax()) + 1
    depth = _depth(part, np.asarray(grid.spacing) * step)
    first = np.array(np.unravel_index(int(depth.argmax()), depth.shape))[None]
    if count > 1:
        others = np.argwhere(depth >= depth.max() / 2)
        first = np.concatenate([first, rng.choice(others, min(count - 1, len(others)), replace=False)])
    return np.asarray(first * step + low, dtype=np.int64)


def _thinned(mask: Mask) -> tuple[Places, Mask, int]:
    """(lowest voxel, the mask's box in every n-th voxel, n): what is empty, or too much to look at, is left out."""
    box = _bounds(mask)
    low = np.array([s.start for s in box])
    part = mask[box]
    step = max(1, int(np.ceil((part.size / MOST_VOXELS) ** (1 / part.ndim))))
    while step > 1 and not part[(slice(None, None, step),) * part.ndim].any():
        step -= 1
    return low, part[(slice(None, None, step),) * part.ndim], step


def _depth(mask: Mask, spacing: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Distance (*S) of every voxel of a mask to the nearest that is none; what lies outside the array is none."""
    from scipy import ndimage

    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing.tolist())
    return np.asarray(depth[(slice(1, -1),) * mask.ndim])


def _bounds(mask: Mask) -> tuple[slice, ...]:
    """The smallest box around what is true."""
    found = []
    for axis in range(mask.ndim):
        line = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        found.append(slice(int(line[0]), int(line[-1]) + 1))
    return tuple(found)


def _box(mask: Mask, grid: Geometry, margin_percent: float) -> npt.NDArray[np.float64]:
    """(2, D): the widened box in mm or px, lowest and highest corner."""
    from itertools import product

    bounds = _bounds(mask)
    margin = np.rint(np.asarray(mask.shape) * margin_percent / 100)
    low = np.maximum([s.start for s in bounds] - margin, 0)
    high = np.minimum([s.stop for s in bounds] + margin, mask.shape)
    if grid.ndim == 2:
        return np.stack([low, high])
    # The edges of the outermost voxels, whichever way the axes run.
    corners = grid.to_world(list(product(*zip(low - 0.5, high - 0.5))))
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def _scribbles(
    masks: dict[int, Mask], outside: Mask, grid: Geometry, margin_percent: float
) -> npt.NDArray[np.uint8]:
    """Seeds (*S): skeletons of the classes, a shell of background at the margin (at least 3 voxels) around them."""
    from scipy import ndimage
    from skimage.morphology import skeletonize

    seeds = np.zeros(outside.shape, dtype=np.uint8)
    for value, mask in masks.items():
        low, part, step = _thinned(mask)
        line = skeletonize(part)
        places = np.argwhere(line if line.any() else part) * step + low
        seeds[tuple(places.T)] = value
    if outside.any():
        distance = ndimage.distance_transform_edt(outside, sampling=list(grid.spacing))
        spacing = max(grid.spacing)
        reach = max(3 * spacing, margin_percent / 100 * max(np.asarray(outside.shape) * grid.spacing))
        shell = outside & (distance >= reach) & (distance < reach + spacing)
        if not shell.any():
            shell = outside & (distance >= distance.max() / 2)
        seeds[shell] = BACKGROUND_SEED
    return seeds


def _world(places: Places, grid: Geometry) -> npt.NDArray[np.float64]:
    return places.astype(np.float64) if grid.ndim == 2 else grid.to_world(places)
