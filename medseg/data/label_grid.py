"""A label onto its image's grid: the same voxels in another axis order are put in order; another grid is an error, or
resampled for `data.grid: resample`. Positions in mm decide; headers are never copied."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry, reorient_array, restore_array
from medseg.core.segmentation import Segmentation


def match_grid(
    label: Segmentation,
    grid: Geometry,
    *,
    resample: bool,
    outside: int = 0,
    name: str = "label",
    where: str = "",
) -> Segmentation:
    """The label on its image's `grid`, with a note where it had to be touched.

    resample: put a label of another grid onto the image's; else it raises UserError with both grids and the distance.
    outside: value of voxels beyond the label's field. name, where: for messages.
    """
    if label.geometry.same_grid(grid):
        return label
    turned = in_order(label, grid)
    if turned is not None:
        return turned
    if not resample:
        grid.require_same_grid(label.geometry, "image", name, where)
    return onto_grid(label, grid, outside)


def in_order(label: Segmentation, grid: Geometry) -> Segmentation | None:
    """The label in the axis order of `grid` where both are the same voxels stored differently, else None."""
    ours, order, flips = grid.reoriented()
    theirs, label_order, label_flips = label.geometry.reoriented()
    if not theirs.same_grid(ours):
        return None
    straight = reorient_array(label.labels, label_order, label_flips)
    labels = np.ascontiguousarray(restore_array(straight, order, flips))
    note = f"the label is stored as {label.geometry.axis_codes}, its image as {grid.axis_codes}: the same voxels, put in order"
    return replace(label, labels=labels, geometry=grid, provenance=_noted(label, note))


def _noted(label: Segmentation, note: str) -> dict[str, Any]:
    return {**label.provenance, "notes": (*label.provenance.get("notes", ()), note)}


def onto_grid(label: Segmentation, grid: Geometry, outside: int = 0) -> Segmentation:
    """The label on `grid`, by position in mm (headers are never copied); voxels beyond the label's field get `outside`.

    Raises UserError for photographs, which have no position, and where label and image do not meet at all.
    """
    if label.geometry.same_grid(grid):
        return label
    if grid.unit == "px" or label.geometry.unit == "px":
        raise UserError(
            f"image {grid.describe()} and label {label.geometry.describe()} differ in size",
            hint="photographs have no position in mm, so their labels cannot be resampled: export them again",
        )
    matrix = np.linalg.inv(label.geometry.affine) @ grid.affine
    if not _meet(label.geometry, grid):
        raise UserError(
            "the label lies wholly outside its image",
            hint="it may belong to another case",
            faults=(f"image: {grid.describe()}", f"label: {label.geometry.describe()}"),
        )
    from scipy.ndimage import affine_transform

    labels = affine_transform(
        label.labels, matrix[:3, :3], matrix[:3, 3], grid.shape, order=0, mode="constant", cval=outside
    )
    distance = label.geometry.distance_mm(grid)
    apart = "of another shape" if np.isinf(distance) else f"{distance:.2f} mm away"
    note = f"the label was resampled onto its image's grid (it lay on a grid {apart})"
    return replace(label, labels=labels, geometry=grid, provenance=_noted(label, note))


def _meet(one: Geometry, other: Geometry) -> bool:
    """Whether the boxes of two grids overlap, seen from the first one's axes."""
    corners = one.to_index(other.corners())
    return bool((corners.max(0) >= 0).all() and (corners.min(0) <= np.asarray(one.shape) - 1).all())
