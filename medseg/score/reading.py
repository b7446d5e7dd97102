"""The masks of a pair of files, read so that they can be compared: on one grid, every value with a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation, default_colour, paint
from medseg.data.label_grid import in_order
from medseg.io.names import DICOM, suffix_of
from medseg.metrics.matching import is_nameless
from medseg.score.pairs import WHOLE

PARALLEL = 1e-3
"""How far two grids' axes (in voxels, over one voxel) may differ and still run side by side."""


def read_pair(
    pred: Mapping[str, Path], true: Mapping[str, Path], ignore: Sequence[int] = ()
) -> tuple[Segmentation, Segmentation]:
    """Both masks of a pair. A DICOM-SEG, which stores only frames that are not empty, is put on the other's grid;
    voxels that the two files store in another axis order (LPS beside RAS) are put in order."""
    ours, theirs = read_masks(pred), read_masks(true)
    if not ours.geometry.same_grid(theirs.geometry):
        partial = [any(suffix_of(path) in DICOM for path in side.values()) for side in (pred, true)]
        if all(partial):
            grid = covering(ours.geometry, theirs.geometry)
            if grid is not None:
                ours, theirs = read_masks(pred, grid), read_masks(true, grid)
        elif partial[0]:
            ours = read_masks(pred, theirs.geometry)
        elif partial[1]:
            theirs = read_masks(true, ours.geometry)
        else:
            ours = turned(ours, theirs.geometry)
    return named(ours, theirs, ignore), named(theirs, ours, ignore)


def turned(mask: Segmentation, grid: Geometry) -> Segmentation:
    """The mask in the axis order of `grid` where both hold the same voxels; else as it is."""
    found = in_order(mask, grid)
    if found is None or mask.regions is None:
        return found or mask
    parts = [
        in_order(replace(mask, labels=region.astype(np.uint8), regions=None), grid) for region in mask.regions
    ]
    return replace(found, regions=np.stack([part.labels > 0 for part in parts if part is not None]))


def read_masks(files: Mapping[str, Path], onto: Geometry | None = None) -> Segmentation:
    """A label map from one file, or regions from a file a class (anything above 0 belongs to it)."""
    from medseg.io.doors import read_segmentation

    if list(files) == [WHOLE]:
        return read_segmentation(files[WHOLE], onto=onto)
    parts = {name: read_segmentation(path, onto=onto) for name, path in files.items()}
    first_name, first = next(iter(parts.items()))
    for name, part in parts.items():
        part.geometry.require_same_grid(first.geometry, name, first_name, files[name].name)
    classes = tuple(ClassInfo(name, i + 1, default_colour(i)) for i, name in enumerate(parts))
    regions = np.stack([part.labels > 0 for part in parts.values()])
    return Segmentation(paint(regions, classes), first.geometry, classes, regions)


def named(mask: Segmentation, other: Segmentation, ignore: Sequence[int]) -> Segmentation:
    """A mask whose file names no classes also gets those values that only the other mask has.

    A structure that one of two bare label maps lacks is then missed or invented, not unknown.
    """
    if mask.regions is not None or not all(is_nameless(info) for info in mask.classes):
        return mask
    values = {info.index for info in (*mask.classes, *other.classes)} - {0, *ignore}
    return replace(mask, classes=tuple(ClassInfo(f"class {v}", v, default_colour(v)) for v in sorted(values)))


def covering(one: Geometry, other: Geometry) -> Geometry | None:
    """The smallest grid that holds two grids of the same voxels, cut differently; None where voxels do not coincide."""
    if one.ndim != other.ndim:
        return None
    relation = np.linalg.inv(one.affine) @ other.affine
    low = relation[: one.ndim, 3]
    if np.abs(relation[:3, :3] - np.eye(3)).max() > PARALLEL or np.abs(low - np.rint(low)).max() > PARALLEL:
        return None
    first = np.minimum(np.rint(low).astype(int), 0)
    last = np.maximum(np.rint(low).astype(int) + other.shape, one.shape)
    return one.cropped(first.tolist(), (last - first).tolist())
