"""Sheared grids (gantry tilt, odd headers) onto a straight one. Rare, so a general interpolation is good enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.geometry import Geometry

Array = npt.NDArray[Any]


def straight_grid(geometry: Geometry, spacing_mm: Sequence[float] | None = None) -> Geometry:
    """The smallest right-angled grid that covers a sheared one, with its axes turned as little as possible.

    Its axes are the rotation nearest to the sheared axes (polar decomposition, so no axis is favoured).
    """
    spacing = np.asarray(spacing_mm or geometry.spacing, dtype=np.float64)
    matrix = geometry.affine[:3, :3]
    left, _, right = np.linalg.svd(matrix / np.linalg.norm(matrix, axis=0))
    axes = left @ right
    # Field edges, not voxel centres: half a voxel more on every side.
    halves = [(-0.5, n - 0.5) for n in geometry.shape]
    corners = np.array([[x, y, z] for x in halves[0] for y in halves[1] for z in halves[2]])
    along = geometry.to_world(corners) @ axes
    shape = np.maximum(1, np.ceil((along.max(0) - along.min(0)) / spacing - 1e-6)).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    centre = (along.max(0) + along.min(0)) / 2
    affine[:3, 3] = axes @ (centre - (shape - 1) / 2 * spacing)
    return Geometry(tuple(int(n) for n in shape), affine, geometry.unit)


def move(array: Array, source: Geometry, target: Geometry, nearest: bool = False) -> npt.NDArray[np.float32]:
    """(C, *S) on `source` -> (C, *target.shape) float32 by MONAI's SpatialResample; outside repeats the edge.

    nearest: label maps take the nearest voxel and 0 outside.
    """
    import torch
    from monai.data import MetaTensor
    from monai.transforms import SpatialResample

    change = SpatialResample(
        mode="nearest" if nearest else "bilinear",
        padding_mode="zeros" if nearest else "border",
        align_corners=False,
        dtype=torch.float32,
    )
    image = MetaTensor(
        torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)),
        affine=torch.from_numpy(np.array(source.affine)),
    )
    out = change(image, dst_affine=torch.from_numpy(np.array(target.affine)), spatial_size=target.shape)
    return np.asarray(out.numpy(), dtype=np.float32)
