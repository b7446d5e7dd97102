"""Which lung is which: parting lungs that touch, and naming each by the patient's side."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medseg.zoo.classical.lung_air import Field
from medseg.zoo.classical.morphology import Mask, components, distance_mm, extent, filled

RIGHT, LEFT = 1, 2
APART_MM = 70.0
"""Two parts whose centres lie farther apart from side to side are two lungs."""
WIDE_MM = 190.0
"""What is wider than this is a pair of lungs that touch."""
VERTEBRA_MM = 7.0
"""Half the thickness that bone reaches in a spine, but not in ribs."""
MARROW_MM2 = 2000.0
"""Cross-section of the largest vertebra, whose marrow may be as soft as muscle."""


def sides(lungs: Mask, outside: Mask, field: Field) -> npt.NDArray[np.uint8]:
    """Labels of the sides. Lungs that touch are parted; of two lungs the one farther right is the right one, and a
    single lung is named by where the chest wall or the spine lies."""
    result = np.zeros(lungs.shape, dtype=np.uint8)
    if not lungs.any():
        return result
    middle = spine_position(field, lungs, outside)
    labels, count = components(lungs)
    pieces = [piece for n in range(1, count + 1) for piece in parted(labels == n, middle, field)]
    centres = [float(np.nonzero(piece)[0].mean()) for piece in pieces]
    sizes = [int(np.count_nonzero(piece)) for piece in pieces]
    first = int(np.argmax(sizes))
    apart = [i for i, c in enumerate(centres) if abs(c - centres[first]) * field.spacing_mm[0] > APART_MM]
    second = max(apart, key=lambda i: sizes[i], default=None)
    if second is not None and sizes[second] > 0.08 * sizes[first]:
        middle = (centres[first] + centres[second]) / 2
    else:
        middle = wall_position(lungs, outside, field, middle)
    for piece, centre in zip(pieces, centres, strict=True):
        result[piece] = RIGHT if centre > middle else LEFT
    return result


def wall_position(lungs: Mask, outside: Mask, field: Field, middle: float) -> float:
    """A position on the far side of a single lung's chest wall: the side from which outside air is near is lateral."""
    reach = max(1, int(80 / field.spacing_mm[0]))
    first, last = extent(lungs, axis=0)
    lines = lungs.any(axis=0)
    low = outside[max(0, first - reach) : first].any(axis=0)[lines].mean()
    high = outside[last + 1 : last + 1 + reach].any(axis=0)[lines].mean()
    if abs(high - low) < 0.3:
        return middle
    return -1.0 if high > low else float(lungs.shape[0])


def spine_position(field: Field, lungs: Mask, outside: Mask) -> float:
    """Where the spine lies along the first axis: where most thick bone stands in the back of the body.

    Where a crop shows no spine, the side on which there is air outside the body is the far one from it.
    """
    width = lungs.shape[0]
    body = field.hu > -200
    if not body.any():
        return (width - 1) / 2
    behind, front = extent(body, axis=1)
    first, last = extent(lungs, axis=0)
    aside = int(
        25 / field.spacing_mm[0]
    )  # a spine lies between the lungs or just beside one; arms lie farther out
    start, stop = max(0, first - aside), min(width, last + aside + 1)
    rows = slice(behind, behind + max(1, (front - behind + 1) * 6 // 10))
    levels = slice(*(n + i for i, n in enumerate(extent(lungs, axis=2))))
    bone = filled((field.smooth > 130)[start:stop, rows, levels], field.spacing_mm, MARROW_MM2)
    depth = distance_mm(bone, field.spacing_mm)
    depth[~np.isfinite(depth)] = 0.0
    if depth.max() >= VERTEBRA_MM:
        columns = np.where(depth > VERTEBRA_MM - 2, depth, 0).sum(axis=(1, 2))
        reach = max(1, int(20 / field.spacing_mm[0]))
        return float(start + np.argmax(np.convolve(columns, np.ones(2 * reach + 1))[reach:-reach]))
    low, high = bool(outside[0].any()), bool(outside[-1].any())
    if low != high:
        return float(width) if low else -1.0
    return float(np.mean(extent(body, axis=0)))


def parted(part: Mask, middle: float, field: Field) -> list[Mask]:
    """One mask a lung. A part that lies on both sides is cut between its two cores, or at the spine if it has none."""
    from scipy import ndimage

    start, stop = extent(part, axis=0)
    wide = (stop - start + 1) * field.spacing_mm[0] > WIDE_MM
    cut = int(np.clip(round(middle), 0, part.shape[0]))
    low, high = int(part[:cut].sum()), int(part[cut:].sum())
    if min(low, high) < 0.12 * (low + high) and not wide:
        return [part]
    depth = distance_mm(part, field.spacing_mm)
    depth[~np.isfinite(depth)] = 0
    for radius in np.arange(1.0, 25.0, 1.5):
        labels, count = components(depth > radius)
        if count < 2:
            continue
        sizes = np.bincount(labels.ravel())[1:]
        centres = np.array([c[0] for c in ndimage.center_of_mass(labels > 0, labels, range(1, count + 1))])
        # Cores above one another, or one in front of the other, are of one lung: a cropped lung may have several.
        away_mm = (centres - centres[np.argmax(sizes)]) * field.spacing_mm[0]
        other = max((away_mm > APART_MM, away_mm < -APART_MM), key=lambda side: sizes[side].sum())
        if sizes[other].sum() >= 0.1 * sizes.sum() and sizes[other].sum() * field.voxel_ml > 5:
            nearest = ndimage.distance_transform_edt(
                labels == 0, sampling=field.spacing_mm, return_distances=False, return_indices=True
            )
            owner = np.append(False, other)[labels[tuple(nearest)]]
            return [part & ~owner, part & owner]
    halves = np.zeros_like(part)
    halves[: cut if min(low, high) else (start + stop) // 2] = True
    return [part & halves, part & ~halves]
