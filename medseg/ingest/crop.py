"""Which box of an image is worth keeping: everything, what is not zero, or the body on CT."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.geometry import Geometry
from medseg.ingest.resample import box_of

Array = npt.NDArray[Any]
Box = tuple[slice, ...]

BODY_HU = -500
"""Lower limit of tissue; lung, table foam and clothing lie below."""

AIR_HU = -950
"""Block means below this are air or padding; lung tissue, emphysema included, lies above."""

BODY_GRID_MM = 6.0
LUNG_SHARE = 0.03
"""A plane with more lung-like blocks than this belongs to the body although no tissue reaches it (cropped scans)."""


def crop_box(image: Array, geometry: Geometry, rule: str) -> Box:
    """The box to keep of an image (C, *S) on `geometry`: slices for *S, never empty.

    rule: none, nonzero or body. An image without anything to find keeps its whole grid.
    """
    whole = tuple(slice(0, n) for n in geometry.shape)
    if rule == "nonzero":
        return box_of(_nonzero(image)) or whole
    if rule == "body" and geometry.ndim == 3:
        return body_box(image[0], geometry) or whole
    return whole


def nonzero_mask(image: Array) -> npt.NDArray[np.bool_]:
    """Voxels (*S) that are not zero in any channel (C, *S), holes filled."""
    from scipy.ndimage import binary_fill_holes

    mask = _nonzero(image)
    # Filling costs seconds on large volumes and changes nothing where there is no hole to fill.
    return mask if mask.all() else binary_fill_holes(mask)


def _nonzero(image: Array) -> npt.NDArray[np.bool_]:
    mask = image[0] != 0
    for channel in image[1:]:
        mask |= channel != 0
    return mask


def body_box(image: Array, geometry: Geometry) -> Box | None:
    """The box of the body in a CT image (*S) in HU: the largest part above -500 HU, and lung that sticks out of it.

    Worked out on means of blocks of about 6 mm, so that it costs milliseconds; a margin of one block is kept.
    """
    from scipy.ndimage import label

    step = tuple(max(1, int(BODY_GRID_MM / s)) for s in geometry.spacing)
    coarse = block_means(image, step)
    parts, count = label(coarse > BODY_HU)
    if count == 0:
        return None
    largest = int(np.argmax(np.bincount(parts.ravel())[1:])) + 1
    box = box_of(parts == largest)
    if box is None:
        return None
    box = _grow_over_lung(coarse, box)
    return tuple(
        slice(max(0, (b.start - 1) * k), min(n, (b.stop + 1) * k))
        for b, k, n in zip(box, step, geometry.shape)
    )


def block_means(image: Array, step: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Means of blocks of `step` voxels, from two voxels an axis: enough to tell tissue from air, and never a full read."""
    total: npt.NDArray[np.float32] | None = None
    lattices = list(product(*({k // 4, (3 * k) // 4} for k in step)))
    for offsets in lattices:
        picks = [np.minimum(np.arange(0, n, k) + o, n - 1) for n, k, o in zip(image.shape, step, offsets)]
        values = image[np.ix_(*picks)].astype(np.float32)
        total = values if total is None else total + values
    assert total is not None
    return total / np.float32(len(lattices))


def _grow_over_lung(coarse: npt.NDArray[np.float32], box: Box) -> Box:
    """Scans cut inside the chest can show lung beyond the outermost tissue; such planes are kept."""
    lung = (coarse > AIR_HU) & (coarse < BODY_HU)
    grown = list(box)
    for axis in range(coarse.ndim):
        inside = tuple(slice(None) if a == axis else grown[a] for a in range(coarse.ndim))
        share = lung[inside].mean(axis=tuple(a for a in range(coarse.ndim) if a != axis))
        low, high = grown[axis].start, grown[axis].stop
        while low > 0 and share[low - 1] > LUNG_SHARE:
            low -= 1
        while high < len(share) and share[high] > LUNG_SHARE:
            high += 1
        grown[axis] = slice(low, high)
    return tuple(grown)
