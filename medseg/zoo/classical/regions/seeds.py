"""From what a person pointed at to labelled seeds on the image's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt

BACKGROUND = 255
"""The seed value of the background, as in `Prompt.mask`; 0 is unknown."""


def seeds_of(
    prompt: Prompt | None, shape: Sequence[int], spacing_mm: Sequence[float], where: str
) -> npt.NDArray[np.int64]:
    """Seeds (*S): 0 unknown, 1 ... 254 a class, 255 background.

    Points and strokes count from the centre of the array's first voxel along the array's axes: in px for two
    axes, in mm for three. Later ones overwrite earlier ones, and all of them the mask. UserError (at `where`)
    for seeds outside the image, a mask on another grid, and when there is no seed at all.
    """
    seeds = np.zeros(tuple(shape), dtype=np.int64)
    if prompt is not None:
        if prompt.mask is not None:
            seeds[:] = _mask(prompt.mask, seeds.shape, where)
        step = np.ones(2) if seeds.ndim == 2 else np.asarray(spacing_mm, dtype=np.float64)
        for line, label in prompt.scribbles:
            _put(seeds, _drawn(np.asarray(line, dtype=np.float64), step, where), label, where)
        for label in np.unique(prompt.point_classes):
            points = np.asarray(prompt.points, dtype=np.float64)[prompt.point_classes == label]
            _put(seeds, _checked(points, step, where) / step, int(label), where)
    if not seeds.any():
        raise UserError(
            "it needs seeds and none was given",
            where,
            "give a prompt with points, strokes or a mask of seeds",
        )
    return seeds


def classes_within(seeds: npt.NDArray[np.int64], levels: int, where: str) -> list[int]:
    """The classes that seeds name, without background; UserError for one of `levels` or more, or for none."""
    named = [int(value) for value in np.unique(seeds) if value not in (0, BACKGROUND)]
    if not named:
        raise UserError("only background seeds were given", where, "point at the object as well")
    if max(named) >= levels:
        raise UserError(
            f"a seed has class {max(named)}, but `levels` is {levels}",
            where,
            f"set levels: {max(named) + 1}, which counts the background, or correct the seed",
        )
    return named


def _mask(mask: npt.NDArray[Any], shape: tuple[int, ...], where: str) -> npt.NDArray[np.int64]:
    mask = np.asarray(mask)
    if mask.shape != shape:
        raise UserError(
            f"the mask of seeds has shape {mask.shape}, the image {shape}",
            where,
            "draw the seeds on the image's own grid",
        )
    if mask.size and (mask.min() < 0 or mask.max() > BACKGROUND):
        raise UserError(
            f"the mask of seeds holds values from {mask.min()} to {mask.max()}",
            where,
            "0 is unknown, 1 to 254 are classes, 255 is background",
        )
    return mask.astype(np.int64)


def _checked(points: npt.NDArray[np.float64], step: npt.NDArray[np.float64], where: str) -> Any:
    if points.ndim != 2 or points.shape[1] != len(step):
        raise UserError(f"seeds of shape {points.shape} for {len(step)} axes", where, "one number an axis")
    return points


def _drawn(
    line: npt.NDArray[np.float64], step: npt.NDArray[np.float64], where: str
) -> npt.NDArray[np.float64]:
    """A stroke's places in voxels, less than a voxel apart."""
    corners = _checked(line, step, where) / step
    parts = [corners[:1]]
    for start, end in pairwise(corners):
        count = int(np.ceil(np.abs(end - start).max() * 2)) + 1
        parts.append(start + (end - start) * np.linspace(0, 1, count)[:, None])
    return np.concatenate(parts)


def _put(seeds: npt.NDArray[np.int64], places: npt.NDArray[np.float64], label: int, where: str) -> None:
    """Writes a class at places given in voxels; class 0 is background."""
    if not 0 <= label < BACKGROUND:
        raise UserError(f"a seed has class {label}", where, "classes are 1 to 254, 0 is background")
    index = np.rint(places).astype(np.int64)
    outside = ((index < 0) | (index >= np.array(seeds.shape))).any(axis=1)
    if outside.any():
        raise UserError(
            f"{int(outside.sum())} of {len(index)} seeds of class {label} lie outside the image, the first at voxel "
            f"{tuple(index[outside][0].tolist())} of {seeds.shape}",
            where,
            "seeds count from the centre of the first voxel: px for photographs, mm for volumes",
        )
    seeds[tuple(index.T)] = label or BACKGROUND
