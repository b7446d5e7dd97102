"""What a person pointed at, drawn on the image's own grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.regions.seeds import BACKGROUND
from medseg.zoo.classical.regions.seeds import seeds_of as strokes

Mask = npt.NDArray[np.bool_]
Seeds = npt.NDArray[np.uint8]


def seeds_of(
    prompt: Prompt | None, shape: Sequence[int], spacing_mm: Sequence[float], name: str, objects: int = 1
) -> Seeds:
    """Seeds (*S): 0 none, 1 to `objects` their classes, 255 background.

    Places of points and scribbles are in mm (px with two axes) along the axes, from the centre of the first voxel.
    Raises UserError without a prompt, without seeds of an object or of the
    background, for classes above `objects`, and for places outside the image.
    """
    where = f"system {name}"
    seeds = drawn(prompt, shape, spacing_mm, where)
    found = {int(v) for v in np.unique(seeds)} - {0}
    unknown = sorted(found - {BACKGROUND} - set(range(1, objects + 1)))
    if unknown:
        raise UserError(
            f"seeds of class {unknown[0]}, this method tells {objects} kinds of object apart",
            where,
            "use classes from 1, and 0 for the background",
        )
    for missing, kind in ((not found - {BACKGROUND}, "object"), (BACKGROUND not in found, "background")):
        if missing:
            raise UserError(
                f"no seeds of the {kind}: this method needs a prompt",
                where,
                "give points, scribbles or a mask of seeds with at least one place of each (class 0 is background)",
            )
    return seeds


def drawn(prompt: Prompt | None, shape: Sequence[int], spacing_mm: Sequence[float], where: str) -> Seeds:
    """All points, scribbles and the mask of a prompt as seeds (*S); zeros where there are none."""
    if prompt is None or not (len(prompt.points) or prompt.scribbles or prompt.mask is not None):
        return np.zeros(tuple(shape), dtype=np.uint8)
    if prompt.mask is not None and not np.any(prompt.mask) and not (len(prompt.points) or prompt.scribbles):
        return np.zeros(tuple(shape), dtype=np.uint8)
    return strokes(prompt, shape, spacing_mm, where).astype(np.uint8)


def box_of(
    prompt: Prompt | None, shape: Sequence[int], spacing_mm: Sequence[float], name: str
) -> tuple[slice, ...] | None:
    """The first box as slices into the grid, cut at the image's border; None where no box is given.

    A box reaches from its lowest corner to just before its highest, both in mm (px with two axes) from the centre of
    the first voxel.
    """
    if prompt is None or not len(prompt.boxes):
        return None
    low, high = (np.asarray(corner, dtype=float) for corner in prompt.boxes[0])
    if low.shape != (len(shape),):
        raise UserError(
            f"a box with {low.size} axes on an image with {len(shape)}",
            f"system {name}",
        )
    step = np.ones(2) if len(shape) == 2 else np.asarray(spacing_mm, dtype=float)
    first = np.clip(np.floor(low / step + 0.5), 0, shape).astype(int)
    last = np.clip(np.floor(high / step + 0.5), 0, shape).astype(int)
    if (last <= first).any():
        raise UserError(
            f"the box from {low.tolist()} to {high.tolist()} has no voxel inside the image",
            f"system {name}",
        )
    return tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))


def start_of(prompt: Prompt | None, shape: Sequence[int], spacing_mm: Sequence[float], name: str) -> Mask:
    """A region to start a contour from: an ellipse in the box, else the seeds of objects (a mask, strokes, points).

    Raises UserError where the prompt has none of these, or where the region is everything.
    """
    box = box_of(prompt, shape, spacing_mm, name)
    if box is not None:
        region = np.zeros(tuple(shape), dtype=bool)
        region[box] = ellipse([s.stop - s.start for s in box])
    else:
        seeds = drawn(prompt, shape, spacing_mm, f"system {name}")
        region = (seeds > 0) & (seeds != BACKGROUND)
    if not region.any() or region.all():
        raise UserError(
            "there is no region to start the contour from: this method needs a prompt",
            f"system {name}",
            "give a box around the object, scribbles in it, or a mask of it",
        )
    return region


def ellipse(shape: Sequence[int]) -> Mask:
    """The ellipse (ellipsoid) that fills a box of this many voxels."""
    grids = np.ogrid[tuple(slice(0, n) for n in shape)]
    square = sum(((g - (n - 1) / 2) / (n / 2)) ** 2 for g, n in zip(grids, shape, strict=True))
    return np.asarray(square <= 1)
