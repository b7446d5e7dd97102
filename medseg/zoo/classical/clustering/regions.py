"""Superpixels (supervoxels in 3D) as units: their means, sizes, neighbours, and the way back to voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.zoo.classical.features import channels, standardised

Labels = npt.NDArray[np.int64]
Table = npt.NDArray[np.float64]


def slic(
    image: npt.NDArray[Any],
    spacing_mm: Sequence[float],
    segments: int,
    compactness: float = 0.3,
    iterations: int = 10,
) -> Labels:
    """About `segments` connected superpixels (*S), numbered from 0, by scikit-image's SLIC on image (C, *S).

    compactness: weight of a superpixel's width against one standard deviation of the image. Distances are in mm.
    """
    from skimage.segmentation import slic as library

    values = standardised(channels(image))
    step = float(np.prod(spacing_mm)) ** (1 / len(spacing_mm))
    labels = library(
        np.moveaxis(values, 0, -1),
        n_segments=max(1, min(segments, values[0].size)),
        compactness=compactness / max(float(np.ptp(values)), 1e-9),
        max_num_iter=iterations,
        spacing=[s / step for s in spacing_mm],
        convert2lab=False,
        enforce_connectivity=values[0].size > 1,
        start_label=0,
        channel_axis=-1,
    )
    return numbered(labels)


def numbered(labels: npt.NDArray[Any]) -> Labels:
    """The same regions, numbered 0, 1, 2 ... without gaps."""
    labels = labels.astype(np.int64, copy=False)
    held = np.bincount(labels.ravel()) > 0
    if held.all():
        return labels
    return (np.cumsum(held) - 1)[labels]


def sizes(labels: Labels) -> npt.NDArray[np.int64]:
    """Voxels of each region, (R,)."""
    return np.bincount(labels.ravel())


def means(labels: Labels, values: npt.NDArray[Any]) -> Table:
    """Mean of (C, *S) over each region: (R, C)."""
    flat = labels.ravel()
    sums = [np.bincount(flat, weights=v.ravel().astype(np.float64)) for v in values]
    return np.stack(sums, axis=1) / sizes(labels)[:, None]


def adjacency(labels: Labels) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(pairs, faces): regions that share voxel faces, (E, 2) with the lower number first, and how many faces (E,)."""
    count = int(labels.max()) + 1
    codes = []
    for axis in range(labels.ndim):
        one = labels.take(range(labels.shape[axis] - 1), axis).ravel()
        other = labels.take(range(1, labels.shape[axis]), axis).ravel()
        there = one != other
        codes.append(np.minimum(one, other)[there] * count + np.maximum(one, other)[there])
    found, faces = np.unique(np.concatenate(codes), return_counts=True)
    return np.stack([found // count, found % count], axis=1), faces.astype(np.float64)


def region_features(
    image: npt.NDArray[Any], labels: Labels, spacing_mm: Sequence[float], place_weight: float
) -> Table:
    """(R, F): mean standardised colour of each region and, weighted, its centre (the image's width counts as 1)."""
    colour = means(labels, standardised(channels(image)))
    if place_weight <= 0:
        return colour
    extent = max(n * s for n, s in zip(labels.shape, spacing_mm, strict=True))
    grids = np.broadcast_arrays(*np.ogrid[tuple(slice(0, n) for n in labels.shape)])
    centres = means(labels, np.stack([g * s for g, s in zip(grids, spacing_mm, strict=True)]))
    return np.concatenate([colour, centres * (place_weight / extent)], axis=1)


def at_most(groups: Labels, features: Table, weights: npt.NDArray[Any], most: int) -> Labels:
    """Groups (R,) of regions brought down to `most`: the smallest join the nearest of the largest, by mean feature."""
    groups = numbered(groups)
    total = np.bincount(groups, weights=weights)
    if len(total) <= most:
        return groups
    centres = np.stack(
        [np.bincount(groups, weights=weights * f) / np.maximum(total, 1e-12) for f in features.T], axis=1
    )
    kept = np.argsort(-total, kind="stable")[:most]
    distance = np.square(centres[:, None] - centres[None, kept]).sum(axis=-1)
    distance[kept, np.arange(most)] = -1
    return numbered(distance.argmin(axis=1)[groups])
