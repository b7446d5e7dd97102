"""A label onto its image's grid, for `data.grid: resample`: every voxel takes the value of the nearest label voxel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import Segmentation


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
    notes = (*label.provenance.get("notes", ()), note)
    return replace(label, labels=labels, geometry=grid, provenance={**label.provenance, "notes": notes})


def _meet(one: Geometry, other: Geometry) -> bool:
    """Whether the boxes of two grids overlap, seen from the first one's axes."""
    corners = one.to_index(other.corners())
    return bool((corners.max(0) >= 0).all() and (corners.min(0) <= np.asarray(one.shape) - 1).all())
