"""What a network may see beside patches of the full grid: the whole case on a coarse grid, or slice by slice.

nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z) plans a first stage on a coarse grid where a patch covers
less than a quarter of the median case, and keeps it where that grid has less than half the voxels. A cascade then
refines on the full grid what the first stage drew. Which one is used, cross-validation decides, never the plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.config import System
from medseg.core.errors import UserError
from medseg.plan.nnunet import COARSER, LOWRES_BELOW

KEY = "system.configuration"

FEWER = 2.0
"""How many times fewer voxels than the full one a coarse grid has to have."""

PatchOf = Callable[[list[float], list[float]], Sequence[int]]
"""Spacing in mm and shape of the median case on that grid -> the patch that is planned there."""


def patch_share(patch: Sequence[int], shape: Sequence[float] | npt.NDArray[np.float64]) -> float:
    """How much of the median case (voxels) a patch covers; above 1 where it is larger."""
    return float(np.prod(patch) / np.prod(shape))


def coarser_grid(
    spacing_mm: Sequence[float], shape: Sequence[float], patch_of: PatchOf
) -> list[float] | None:
    """The spacing in mm on which a patch covers a quarter of the median case; None where it is not worth a stage.

    Axes that are more than twice as fine as the coarsest one are widened first, the others together (nnU-Net's rule).
    """
    fine, coarse = np.asarray(spacing_mm, dtype=np.float64), np.array(spacing_mm, dtype=np.float64)
    seen = np.asarray(shape, dtype=np.float64)
    patch = patch_of(coarse.tolist(), seen.tolist())
    while patch_share(patch, seen) < LOWRES_BELOW:
        lagging = coarse.max() / coarse > 2
        coarse[lagging if lagging.any() else slice(None)] *= COARSER
        seen = np.asarray(shape) * fine / coarse
        patch = patch_of(coarse.tolist(), np.maximum(1, np.round(seen)).tolist())
    if float(np.prod(coarse / fine)) < FEWER:
        return None
    return [round(float(mm), 4) for mm in coarse]


def slice_axis(spacing_mm: Sequence[float] | None, dims: int) -> int:
    """The axis across which slices lie: the coarsest, of equal ones the last (head-foot). UserError for flat images."""
    if dims != 3 or spacing_mm is None:
        raise UserError("flat images have no slices", KEY, "leave configuration: 2d out")
    return max(range(dims), key=lambda axis: (spacing_mm[axis], axis))


def without(axis: int, values: Sequence[Any]) -> list[Any]:
    """The values of the other two axes."""
    return [value for place, value in enumerate(values) if place != axis]


def require_coarser(
    spacing_mm: Sequence[float] | None, shape: Sequence[float], patch_of: PatchOf
) -> list[float]:
    """As `coarser_grid`. Raises UserError for flat images, and where no coarse grid is worth a stage."""
    if len(shape) != 3 or spacing_mm is None:
        raise UserError(
            "flat images have no first stage on a coarse grid", KEY, "leave lowres and cascade out"
        )
    coarse = coarser_grid(spacing_mm, shape, patch_of)
    if coarse is None:
        share = patch_share(patch_of(list(spacing_mm), list(shape)), shape)
        raise UserError(
            f"a patch covers {min(share, 1):.0%} of the median case: a grid of half the voxels would not show it more",
            KEY,
            "leave lowres and cascade out",
        )
    return coarse


def advice(system: System, estimate: Mapping[str, Any]) -> list[str]:
    """What the plan says where a first stage on a coarse grid may help; nothing where it would not."""
    coarse = estimate.get("lowres_spacing_mm")
    if not coarse:
        return []
    grid = "x".join(f"{mm:.3g}" for mm in coarse)
    listed = json.dumps([_shortest(system), *(_as_written(system, name) for name in ("lowres", "cascade"))])
    return [
        f"  a patch covers {estimate['patch_share']:.0%} of the median case: a first stage on {grid} mm may see what it"
        " misses. Cross-validation decides:",
        f"    medseg run PIPELINE.yaml --folds all --set 'system={listed}'",
    ]


def _as_written(system: System, configuration: str) -> dict[str, Any]:
    return {**system.model_dump(mode="json", exclude_defaults=True), "configuration": configuration}


def _shortest(system: System) -> Any:
    found = system.model_dump(mode="json", exclude_defaults=True)
    return found if len(found) > 1 else system.name
