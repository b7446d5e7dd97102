"""Trachea and main bronchi on CT, by growing from a round dark disc and stopping before the growth leaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.zoo.classical.morphology import Mask, components, dilated

DISC_MM2 = (50.0, 900.0)
"""Cross-sections a trachea may have."""
LARGEST_ML = 90.0
"""Lumen of trachea and main bronchi of a large adult; more is a leak into the lungs."""


def airways(hu: npt.NDArray[np.float32], inside: Mask, outside: Mask, spacing_mm: Sequence[float]) -> Mask:
    """Lumen and inner wall of trachea and main bronchi; empty where no trachea is found.

    hu: (R, A, S) axes. inside: air within the body. outside: air beyond it, or so dark that it was taken for it.
    """
    seed = trachea_seed(hu, inside | outside, spacing_mm)
    if seed is None:
        return np.zeros_like(inside)
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    grown: Mask | None = None
    volume = 0.0
    for threshold in range(-990, -840, 10):
        region = region_of(seed, hu < threshold)
        if region is None:
            continue
        now = float(np.count_nonzero(region)) * voxel_ml
        if now > LARGEST_ML or (volume > 12 and now > 1.8 * volume):
            break
        grown, volume = region, now
    if grown is None:
        return np.zeros_like(inside)
    return dilated(grown, 2.0, spacing_mm) & (inside | grown)


def region_of(seed: tuple[int, int, int], mask: Mask) -> Mask | None:
    """The component of the mask that holds the seed."""
    if not mask[seed]:
        return None
    labels, _ = components(mask)
    return np.asarray(labels == labels[seed])


def trachea_seed(hu: npt.NDArray[Any], air: Mask, spacing_mm: Sequence[float]) -> tuple[int, int, int] | None:
    """The darkest voxel of a disc that looks like a trachea in the upper part of the body, from the top down."""
    from scipy import ndimage

    body = hu > -200
    if not body.any():
        return None
    pixel_mm2 = spacing_mm[0] * spacing_mm[1]
    height = hu.shape[2]
    for z in range(height - 1, max(-1, int(height * 0.35) - 1), -1):
        columns = np.flatnonzero(body[:, :, z].any(axis=1))
        if columns.size < 2:
            continue
        middle, reach = (columns[0] + columns[-1]) / 2, 0.2 * (columns[-1] - columns[0])
        labels, _ = ndimage.label(air[:, :, z])
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            disc = labels[box] == label
            area = disc.sum() * pixel_mm2
            sides_mm = [n * s for n, s in zip(disc.shape, spacing_mm[:2], strict=True)]
            round_enough = max(sides_mm) < 2.2 * min(sides_mm) and disc.mean() > 0.55
            centred = abs((box[0].start + box[0].stop - 1) / 2 - middle) <= reach
            at_border = (
                box[0].start == 0
                or box[1].start == 0
                or any(b.stop == n for b, n in zip(box, labels.shape, strict=True))
            )
            values = np.where(disc, hu[box][..., z], np.inf)
            if (
                DISC_MM2[0] <= area <= DISC_MM2[1]
                and round_enough
                and centred
                and not at_border
                and values.min() < -880
            ):
                at = np.unravel_index(int(np.argmin(values)), values.shape)
                return int(at[0] + box[0].start), int(at[1] + box[1].start), z
    return None
