"""What clustering and random fields look at: standardised channels, cut-offs, and labels in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.zoo.classical.otsu import intensity

Labels = npt.NDArray[np.int64]


def channels(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(C, *S) -> (C', *S): Lab for photographs in colour (three channels, two axes), all channels as they are otherwise.

    Colour counts as 8-bit where a value is above 1.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        return image.astype(np.float32)
    from skimage.color import rgb2lab

    colour = image.astype(np.float64)
    colour = np.clip(colour / (255.0 if colour.max() > 1 else 1.0), 0, 1)
    return np.ascontiguousarray(np.moveaxis(rgb2lab(np.moveaxis(colour, 0, -1)), -1, 0), dtype=np.float32)


def standardised(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(C, *S) with mean 0 and a common standard deviation of 1, so that channels keep their relative weight."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    flat = flat - flat.mean(axis=1, keepdims=True)
    spread = float(np.sqrt(np.square(flat).mean()))
    return (flat / (spread or 1.0)).reshape(values.shape).astype(np.float32)


def unit_range(image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Grey (*S) from 0 to 1 between the smallest and the largest value; zeros for a constant image."""
    grey = intensity(image)
    low, high = float(grey.min()), float(grey.max())
    return (grey - low) / (high - low) if high > low else np.zeros_like(grey)


def is_constant(image: npt.NDArray[Any]) -> bool:
    """Whether every channel of (C, *S) has one value everywhere."""
    return all(channel.min() == channel.max() for channel in image)


def places_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> npt.NDArray[np.float32]:
    """(D, *S): where every voxel lies along each axis, in mm."""
    lines = [np.arange(n, dtype=np.float32) * s for n, s in zip(shape, spacing_mm, strict=True)]
    return np.stack(np.meshgrid(*lines, indexing="ij"))


def by_brightness(labels: npt.NDArray[Any], grey: npt.NDArray[np.float64]) -> Labels:
    """Labels renamed so that 0 is the darkest on average; the same image always gives the same names."""
    counts = np.bincount(labels.ravel())
    held = np.flatnonzero(counts)
    means = np.bincount(labels.ravel(), weights=grey.ravel())[held] / counts[held]
    rank = np.zeros(len(counts), dtype=np.int64)
    rank[held] = np.argsort(np.argsort(means, kind="stable"), kind="stable")
    return rank[labels]


def checked_count(count: int, size: int, what: str, name: str, most: int = 256) -> int:
    """A number of clusters or regions that makes sense for an image of `size` voxels."""
    if not 1 <= count <= most:
        raise UserError(f"{what} is {count}", f"system {name}", f"it lies between 1 and {most}")
    if count > size:
        raise UserError(
            f"{what} is {count}, the image has {size} voxel{'s' if size > 1 else ''}",
            f"system {name}",
            "ask for fewer, or give a larger image",
        )
    return int(count)


def cluster_names(clusters: int) -> dict[int, str]:
    """What the values above 0 mean: groups from dark to bright, the darkest being background."""
    if clusters == 2:
        return {1: "foreground"}
    return {n: f"cluster {n}" for n in range(1, clusters)}
