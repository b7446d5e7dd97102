"""From edges to regions: the step that every edge method ends with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.zoo.classical.morphology import Mask, dilated

Strength = npt.NDArray[np.float64]


def enclosed(edges: Mask, closing_mm: float, spacing_mm: Sequence[float]) -> Mask:
    """What edges part from the background, with gaps of up to twice `closing_mm` closed.

    Edges are widened by `closing_mm` for that, so what is narrower than twice as much is lost.

    The background is the connected part between edges that holds most of the image's rim; all other parts are
    enclosed. An edge voxel goes to the side of the nearest voxel that is none, so that a broad edge is cut
    along its middle and an edge that encloses nothing disappears.
    """
    from scipy import ndimage

    if not edges.any():
        return np.zeros_like(edges)
    walls = dilated(edges, closing_mm, spacing_mm) if closing_mm > 0 else edges
    parts, count = ndimage.label(~walls)
    if count < 2:
        return np.zeros_like(edges)
    on_rim = np.bincount(parts[rim(parts.shape)], minlength=count + 1)
    on_rim[0] = 0
    largest = np.bincount(parts.ravel())
    largest[0] = 0
    background = int(np.argmax(on_rim if on_rim.any() else largest))
    _, nearest = ndimage.distance_transform_edt(walls, sampling=tuple(spacing_mm), return_indices=True)
    return np.asarray(parts[tuple(nearest)] != background)


def rim(shape: Sequence[int]) -> Mask:
    """The outermost voxels; an axis of one or two voxels has no rim of its own."""
    inner = tuple(slice(1, -1) if n > 2 else slice(None) for n in shape)
    mask = np.ones(tuple(shape), dtype=bool)
    if any(n > 2 for n in shape):
        mask[inner] = False
    return mask


def strong(strength: Strength, threshold: float, low: float) -> Mask:
    """Edges above the threshold, and those above `low` times it that touch them."""
    if low >= 1:
        return np.asarray(strength > threshold)
    from skimage.filters import apply_hysteresis_threshold

    return np.asarray(apply_hysteresis_threshold(strength, low * threshold, threshold))


def zero_crossings(response: Strength, least: float, spacing_mm: Sequence[float]) -> Mask:
    """Voxels where the response changes sign along an axis at a slope of more than `least` a mm.

    Of the two voxels the one nearer to zero is marked; a voxel of zero between two signs is marked itself.
    """
    marked = np.zeros(response.shape, dtype=bool)
    for (here, there), s in zip(_steps(response.ndim, 1), spacing_mm, strict=True):
        a, b = response[here], response[there]
        crossing = (a * b < 0) & (np.abs(a - b) > least * s)
        nearer = np.abs(a) <= np.abs(b)
        marked[here] |= crossing & nearer
        marked[there] |= crossing & ~nearer
    for axis, ((here, there), s) in enumerate(zip(_steps(response.ndim, 2), spacing_mm, strict=True)):
        middle = tuple(slice(1, -1) if a == axis else slice(None) for a in range(response.ndim))
        a, b = response[here], response[there]
        marked[middle] |= (response[middle] == 0) & (a * b < 0) & (np.abs(a - b) > 2 * least * s)
    return marked


def slopes(response: Strength, spacing_mm: Sequence[float]) -> Strength:
    """How steep all changes of sign between face neighbours are, a mm."""
    found = []
    for (here, there), s in zip(_steps(response.ndim, 1), spacing_mm, strict=True):
        a, b = response[here], response[there]
        found.append(np.abs(a - b)[a * b < 0] / s)
    return np.concatenate(found)


def _steps(dims: int, far: int) -> list[tuple[Any, Any]]:
    """For each axis the slices that lay every voxel beside the one `far` voxels on."""
    pairs = []
    for axis in range(dims):
        here, there = [slice(None)] * dims, [slice(None)] * dims
        here[axis], there[axis] = slice(None, -far), slice(far, None)
        pairs.append((tuple(here), tuple(there)))
    return pairs
