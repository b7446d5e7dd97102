"""Grids and patches that a pipeline file asks for, held against a first case before all of them are read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medseg.config import Pipeline
from medseg.core.errors import UserError
from medseg.core.machine import parse_bytes, ram_available_bytes

BYTES_PER_VOXEL = 4
"""Of one channel of a resampled image, in float32; as much again holds its target and what becomes of it."""


def require_grid(
    pipeline: Pipeline, shape: Sequence[int], spacing: Sequence[float], unit: str, channels: int = 1
) -> None:
    """Raises UserError where `ingest.spacing_mm`, `train.patch_size` or `predict.window` cannot be meant for an image, with the remedy.

    shape, spacing: of its own grid, in any order of the axes; unit: mm or px. A grid is refused when one prepared case
    would not fit into memory.
    """
    dims, asked = len(shape), pipeline.ingest.spacing_mm
    own = "x".join(f"{s:.4g}" for s in spacing)
    if (pixels := pixels_asked(pipeline.ingest.spacing_px, dims, unit)) is not None:
        _require_memory(pipeline, pixels, shape, spacing, channels, own, "px")
    if not isinstance(asked, str):
        if unit == "px":
            raise UserError(
                f"spacing {asked} mm for images without a size in mm",
                "ingest.spacing_mm",
                "leave it out; ingest.spacing_px: 2 halves rows and columns",
            )
        if len(asked) != dims:
            order = "left-right first" if dims == 3 else "rows, then columns"
            raise UserError(
                f"{asked} for {dims}D images",
                "ingest.spacing_mm",
                f"give {dims} positive numbers in mm, {order}; the first case has {own}",
            )
        _require_memory(pipeline, asked, shape, spacing, channels, own, "mm")
    patch = pipeline.train.patch_size
    flat = any(system.configuration == "2d" for system in pipeline.systems)
    if not isinstance(patch, str) and len(patch) != dims and not (flat and len(patch) == dims - 1):
        raise UserError(
            f"{patch} has {len(patch)} numbers for {dims}D images",
            "train.patch_size",
            "give 3 numbers, left-right first" if dims == 3 else "give rows and columns",
        )
    window = pipeline.predict.window
    if not isinstance(window, str) and len(window) != dims:
        raise UserError(
            f"{window} has {len(window)} numbers for {dims}D images",
            "predict.window",
            "give 3 numbers, left-right first" if dims == 3 else "give rows and columns",
        )


def pixels_asked(setting: list[float] | float | None, dims: int, unit: str) -> list[float] | None:
    """`ingest.spacing_px` as one number an axis; None where it is not set.

    Raises UserError for images whose voxels have a size in mm, and for another number of axes.
    """
    if setting is None:
        return None
    asked = [float(setting)] * dims if isinstance(setting, int | float) else [float(n) for n in setting]
    if unit != "px":
        raise UserError(
            f"{asked} px for images with a size in mm",
            "ingest.spacing_px",
            "give the network's grid in mm: ingest.spacing_mm",
        )
    if len(asked) != dims:
        raise UserError(
            f"{asked} for {dims}D images", "ingest.spacing_px", "give one number, or rows and columns"
        )
    return asked


def _require_memory(
    pipeline: Pipeline,
    asked: Sequence[float],
    shape: Sequence[int],
    spacing: Sequence[float],
    channels: int,
    own: str,
    unit: str,
) -> None:
    ram = pipeline.compute.ram
    allowed = ram_available_bytes() if ram is None else parse_bytes(ram)
    voxels = math.prod(n * s for n, s in zip(shape, spacing)) / math.prod(asked)
    needed = voxels * 2 * BYTES_PER_VOXEL * channels
    if needed > allowed:
        raise UserError(
            f"{asked} {unit} would make {voxels:,.0f} voxels of a case of {'x'.join(map(str, shape))} voxels of {own} {unit}: "
            f"{needed / 1e9:,.1f} GB, of {allowed / 1e9:.1f} GB",
            f"ingest.spacing_{unit}",
            "take larger numbers, or auto" if unit == "mm" else "take larger numbers",
        )
