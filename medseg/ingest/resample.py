"""Resampling along an image's own axes, one matrix product an axis, in float32.

Every separable interpolation is linear in the voxels, so along one axis it is a matrix (n_out, n_in); the spline's
prefilter and the edge rule are folded into it. Two families are offered:

order 3  cubic B-spline, edges repeated, half-pixel centres, no smoothing when shrinking, coarse axes by nearest
         slice, result clipped to the input's range: the numbers of nnU-Net v2 (Isensee et al. 2021,
         doi:10.1038/s41592-020-01008-z), to 1e-5.
order 1  linear; when an axis shrinks the triangle is widened by the ratio, so that every voxel counts and noise is
         averaged instead of aliased.

MONAI's Spacing evaluates one general 3D grid: several times slower and 16 bytes of coordinates a voxel. It is used
for sheared grids only (straighten.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

SLAB_BYTES = 16 * 2**20
"""Working memory of one slab in float32."""

POLE = 3**0.5 - 2
"""The pole of the cubic spline's recursive prefilter."""

SPLINE_MARGIN = 12
"""Edge voxels repeated before the spline's prefilter; its influence beyond is 0.27^12, below 1e-6."""

FAINT = 1e-12
"""Weights below this are 0: float32 would not notice them, and those of far voxels would be denormal numbers, with
which some processors multiply ten times slower."""

ANISOTROPY = 3.0
"""Ratio of spacings above which the coarse axis is resampled on its own."""


class Sampling(NamedTuple):
    """How each axis is interpolated.

    orders: spline order per axis (0, 1 or 3). widen: whether order 1 smooths when it shrinks.
    coarse: the axis that stands apart (order 0), or None.
    """

    orders: tuple[int, ...]
    widen: bool
    coarse: int | None = None


def image_sampling(spacing: Sequence[float], target: Sequence[float], order: int) -> Sampling:
    """The interpolation of images of a plan's `image_order` between two spacings (mm)."""
    if order <= 1:
        return Sampling((order,) * len(spacing), widen=order == 1)
    coarse = coarse_axis(spacing, target)
    return Sampling(tuple(0 if a == coarse else order for a in range(len(spacing))), False, coarse)


def label_sampling(spacing: Sequence[float], target: Sequence[float], order: int) -> Sampling:
    """The interpolation of label indicators that goes with images of `order`: linear, coarse axes by nearest slice."""
    if order <= 1:
        return Sampling((1,) * len(spacing), widen=True)
    coarse = coarse_axis(spacing, target)
    return Sampling(tuple(0 if a == coarse else 1 for a in range(len(spacing))), False, coarse)


def coarse_axis(spacing: Sequence[float], target: Sequence[float]) -> int | None:
    """The one axis whose spacing is more than three times the finest, first now, else on the target grid."""
    for grid in (spacing, target):
        if max(grid) / min(grid) > ANISOTROPY:
            widest = [axis for axis, s in enumerate(grid) if s == max(grid)]
            return widest[0] if len(widest) == 1 else None
    return None


@lru_cache(maxsize=512)
def axis_matrix(n_in: int, n_out: int, order: int, widen: bool = False) -> Floats:
    """Weights (n_out, n_in) float32, rows sum to 1; field edges of the two grids coincide."""
    ratio = n_in / n_out
    centre = (np.arange(n_out) + 0.5) * ratio - 0.5
    if order == 0:
        matrix = np.zeros((n_out, n_in))
        matrix[np.arange(n_out), np.clip(np.floor(centre + 0.5).astype(int), 0, n_in - 1)] = 1.0
    elif order == 1:
        matrix = _triangles(centre, n_in, max(1.0, ratio) if widen else 1.0)
    else:
        matrix = _cubic_splines(centre, n_in)
    weights = np.where(np.abs(matrix) < FAINT, 0.0, matrix).astype(np.float32)
    weights.setflags(write=False)
    return weights


def _triangles(centre: npt.NDArray[np.float64], n_in: int, width: float) -> npt.NDArray[np.float64]:
    if width == 1.0:
        centre = np.clip(centre, 0, n_in - 1)
    weights = np.maximum(0.0, 1.0 - np.abs(np.arange(n_in) - centre[:, None]) / width)
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic_splines(centre: npt.NDArray[np.float64], n_in: int) -> npt.NDArray[np.float64]:
    # What the filter does to every unit vector at once is the filter as a matrix.
    padded = np.pad(np.eye(n_in), ((SPLINE_MARGIN, SPLINE_MARGIN), (0, 0)), mode="edge")
    coefficients = _spline_coefficients(padded)
    place = centre + SPLINE_MARGIN
    first = np.floor(place).astype(int) - 1
    t = place - np.floor(place)
    taps = ((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
    last = len(padded) - 1
    return sum(w[:, None] * coefficients[np.clip(first + k, 0, last)] for k, w in enumerate(taps))


def _spline_coefficients(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cubic B-spline coefficients along axis 0 by a run forwards and one backwards; samples go on mirrored at both ends.

    Unser, Aldroubi and Eden 1993 (doi:10.1109/78.193221). The same numbers as
    `scipy.ndimage.spline_filter1d(samples, 3, axis=0, mode="nearest")`, whose import takes longer than the sums.
    """
    n = len(samples)
    c = 6.0 * samples
    powers = POLE ** np.arange(1, n + 1)
    # The infinite sum over the mirrored samples, folded onto the ones that there are.
    around = powers @ c + POLE**n * (powers @ c[::-1])
    c[0] += around / (1 - POLE ** (2 * n))
    for k in range(1, n):
        c[k] += POLE * c[k - 1]
    c[-1] *= POLE / (POLE - 1)
    for k in range(n - 2, -1, -1):
        c[k] = POLE * (c[k + 1] - c[k])
    return c


def along(array: Floats, weights: Floats, axis: int) -> Floats:
    """Applies a matrix (n_out, n_in) along one axis of a contiguous 1- to 3-axis float32 array."""
    if axis == array.ndim - 1:
        flat = array.reshape(-1, array.shape[-1]) @ weights.T
        return flat.reshape(*array.shape[:-1], len(weights))
    if axis == 0:
        flat = weights @ array.reshape(array.shape[0], -1)
        return flat.reshape(len(weights), *array.shape[1:])
    return np.matmul(weights, array)


def resample(
    array: Array,
    shape: Sequence[int],
    sampling: Sampling,
    change: Callable[[Floats], Floats] | None = None,
) -> Floats:
    """One channel (*S) of any number type, also a strided view -> (*shape) float32.

    change: what is done to the numbers of each slab before it is resampled (intensity); it sees every voxel once.
    Slabs along the axis that grows most are converted, changed and resampled in their plane, so that the source is
    never held in float32 as a whole.
    """
    lead = _slab_axis(array.shape, shape, sampling)
    moved = np.moveaxis(array, lead, 0)
    order = [lead, *(a for a in range(array.ndim) if a != lead)]
    sizes = [shape[a] for a in order]
    weights = [
        None
        if array.shape[a] == shape[a]
        else axis_matrix(array.shape[a], shape[a], sampling.orders[a], sampling.widen)
        for a in order
    ]
    middle = np.empty((moved.shape[0], *sizes[1:]), np.float32)
    limits = [np.inf, -np.inf]
    step = max(1, SLAB_BYTES // (4 * max(1, int(np.prod(moved.shape[1:])))))
    for start in range(0, moved.shape[0], step):
        slab = np.ascontiguousarray(moved[start : start + step], dtype=np.float32)
        if np.shares_memory(slab, array):
            slab = slab.copy()  # a change in place must never reach the source
        slab = slab if change is None else change(slab)
        if 3 in sampling.orders:
            limits = [min(limits[0], float(slab.min())), max(limits[1], float(slab.max()))]
        middle[start : start + step] = _plane(slab, weights, clip=sampling.coarse is not None)
    out = middle if weights[0] is None else along(middle, weights[0], 0)
    if 3 in sampling.orders and any(w is not None for w in weights):
        np.clip(out, limits[0], limits[1], out=out)
    return np.ascontiguousarray(np.moveaxis(out, 0, lead))


def _plane(slab: Floats, weights: Sequence[Floats | None], clip: bool) -> Floats:
    """Resamples all axes but the first; with `clip` each slice stays within its own range."""
    axes = [a for a in range(1, slab.ndim) if weights[a] is not None]
    if not axes:
        return slab
    rest = tuple(range(1, slab.ndim))
    low, high = slab.min(axis=rest, keepdims=True), slab.max(axis=rest, keepdims=True)
    for axis in sorted(axes, key=lambda a: len(weights[a]) / slab.shape[a]):  # type: ignore[arg-type]
        slab = along(slab, weights[axis], axis)  # type: ignore[arg-type]
    return np.clip(slab, low, high, out=slab) if clip else slab


def _slab_axis(old: Sequence[int], new: Sequence[int], sampling: Sampling) -> int:
    if sampling.coarse is not None:
        return sampling.coarse
    return max(range(len(old)), key=lambda a: (new[a] / old[a], a))


TIE = 1e-5
"""Indicators closer than this are equal: the weights are float32."""


def resample_labels(labels: Array, shape: Sequence[int], sampling: Sampling) -> npt.NDArray[np.uint8]:
    """A label map (*S) of 0..255 -> (*shape) uint8: the label whose linearly resampled indicator is largest.

    Exact ties go to the label of the nearest voxel if it is among them, else to the smallest. Only each label's own
    box is worked on, so many small classes cost little.
    """
    if tuple(labels.shape) == tuple(shape):
        return np.ascontiguousarray(labels, dtype=np.uint8)
    from scipy.ndimage import find_objects

    labels = np.ascontiguousarray(labels, dtype=np.uint8)
    nearest = _nearest(labels, shape)
    winner = np.zeros(tuple(shape), np.uint8)
    best, own = np.zeros(tuple(shape), np.float32), np.zeros(tuple(shape), np.float32)
    rest = np.ones(tuple(shape), np.float32)  # what the labels above 0 leave for label 0: the rows sum to 1
    for value, box in enumerate(find_objects(labels), start=1):
        if box is None:
            continue
        place, share = _indicator(labels[box] == value, box, labels.shape, shape, sampling)
        rest[place] -= share
        winner[place][share > best[place] + TIE] = value
        np.maximum(best[place], share, out=best[place])
        np.copyto(own[place], share, where=nearest[place] == value)
    np.copyto(own, rest, where=nearest == 0)
    winner[rest >= best - TIE] = 0
    np.copyto(winner, nearest, where=own >= np.maximum(rest, best) - TIE)
    return winner


def _nearest(labels: npt.NDArray[np.uint8], shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    picks = [axis_matrix(old, new, 0).argmax(axis=1) for old, new in zip(labels.shape, shape)]
    return labels[np.ix_(*picks)]


def resample_regions(regions: npt.NDArray[np.bool_], shape: Sequence[int], sampling: Sampling) -> Array:
    """Overlapping regions (R, *S) -> (R, *shape) booleans: at least half of the voxel is inside."""
    out = np.zeros((len(regions), *shape), np.bool_)
    for region, into in zip(regions, out):
        box = box_of(region)
        if box is not None:
            place, share = _indicator(region[box], box, region.shape, shape, sampling)
            into[place] = share >= 0.5
    return out


def box_of(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """The smallest box that holds all True voxels, or None when there is none."""
    slices = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if len(hit) == 0:
            return None
        slices.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(slices)


def _indicator(
    mask: npt.NDArray[np.bool_],
    box: tuple[slice, ...],
    old: Sequence[int],
    new: Sequence[int],
    sampling: Sampling,
) -> tuple[tuple[slice, ...], Floats]:
    """Resamples a mask that is False outside `box`: the place where it is not zero, and its values there."""
    values = mask.astype(np.float32)
    place = []
    for axis, part in enumerate(box):
        if old[axis] == new[axis]:
            place.append(part)
            continue
        weights = axis_matrix(old[axis], new[axis], sampling.orders[axis], sampling.widen)[:, part]
        rows = np.flatnonzero(weights.any(axis=1))
        reach = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)
        values = along(np.ascontiguousarray(values), np.ascontiguousarray(weights[reach]), axis)
        place.append(reach)
    return tuple(place), values
