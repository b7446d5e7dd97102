"""All spatial changes of one sample as one interpolation: nothing is sampled twice, and label and image move together.

Beyond the patch the edge is repeated in image and target alike, so that no invented background is learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from medseg.ingest.augment.elastic import Elastic
from medseg.ingest.augment.frame import Frame
from medseg.ingest.augment.rotate import Rotate
from medseg.ingest.augment.scale import Scale
from medseg.ingest.augment.shear import Shear

SPATIAL = (Rotate, Scale, Shear, Elastic)


def warp(image: Tensor, target: Tensor, records: Sequence[Any], frame: Frame) -> tuple[Tensor, Tensor]:
    """image (C, *S) linear, target (..., *S) uint8 nearest -> both moved alike.

    Labels take the nearest voxel: an argmax over linear indicators costs one interpolation a class for edges that
    differ by less than half a voxel.
    """
    grid = _grid(records, frame, image)
    moved = _sampled(image, grid, "bilinear")
    labels = _sampled(target.reshape(-1, *frame.shape).to(image.dtype), grid, "nearest")
    return moved, labels.reshape(target.shape).to(target.dtype)


def _sampled(array: Tensor, grid: Tensor, mode: str) -> Tensor:
    """array (C, *S) at the places of grid (1, *S, ndim).

    On a CPU PyTorch has one thread a sample of the batch, so each thread gets a part of the one sample's places.
    """
    parts = torch.get_num_threads() if array.device.type == "cpu" else 1
    if grid.shape[1] % parts:
        parts = 1
    places = grid[0].unflatten(0, (parts, -1))
    several = array[None].expand(parts, *array.shape)
    out = grid_sample(several, places, mode=mode, padding_mode="border", align_corners=True)
    return out.movedim(0, 1).flatten(1, 2)


def _grid(records: Sequence[Any], frame: Frame, like: Tensor) -> Tensor:
    matrix = np.eye(frame.ndim)
    for record in records:
        if not isinstance(record, Elastic):
            matrix = matrix @ record.matrix(frame)
    # mm -> units of half a patch edge (-1 and 1 are the centres of the outermost voxels), last axis first.
    half = np.array([max(1, n - 1) * s / 2 for n, s in zip(frame.shape, frame.spacing)])
    units = (matrix * half[None, :] / half[:, None])[::-1, ::-1]
    theta = torch.zeros(1, frame.ndim, frame.ndim + 1, dtype=like.dtype, device=like.device)
    theta[0, :, : frame.ndim] = torch.from_numpy(units.astype(np.float32).copy())
    grid = affine_grid(theta, [1, 1, *frame.shape], align_corners=True)
    for record in records:
        if isinstance(record, Elastic):
            grid = grid + record.field(frame, like)
    return grid
