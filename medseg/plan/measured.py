"""`train.batch_size: measured`: the most patches a step that fit the memory at hand, found by dry steps.

Two things hold it back. nnU-Net's cap: a batch covers at most 5 % of all training voxels, since steps over much the
same voxels teach little more (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z). And on a CPU the prepared cases,
where training will hold them in memory too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medseg.config import Pipeline, Plan
from medseg.core.machine import choose_device, parse_bytes, ram_available_bytes
from medseg.plan.dry_step import MOST, Measured, Step, measure

COVERED = 0.05
"""Largest share of all training voxels in one batch."""

LEAST = 2
"""The cap goes no lower than this many patches."""

BYTES_PER_VOXEL = 2
"""Prepared images are kept in float16; the target takes one byte more."""

HELD_SHARE = 0.3
"""Prepared cases are held in memory while they take no more of it than this (as medseg.train does)."""


@dataclass(frozen=True)
class BatchFound:
    """The batch, why it is not larger, and what a step of it took (an estimate by the line where it was not tried)."""

    batch: int
    reason: str
    peak_bytes: int
    seconds: float


def measured_batch(pipeline: Pipeline, plan: Plan, shape: Sequence[float], cases: int) -> BatchFound:
    """The largest batch of the plan's patches. shape: the median prepared case in voxels; cases: how many train.

    Raises UserError when not even one patch fits.
    """
    found = measure(pipeline, plan, held_bytes(pipeline, plan, shape, cases))
    cap = covering(shape, cases, plan.patch_size)
    step = step_of(found, min(found.batch, cap))
    return BatchFound(step.batch, _reason(found, cap, pipeline), step.peak_bytes, step.seconds)


def covering(shape: Sequence[float], cases: int, patch: Sequence[int]) -> int:
    """The most patches that cover 5 % of all voxels, at least two."""
    return max(LEAST, round(COVERED * float(np.prod(shape)) * cases / float(np.prod(patch))))


def held_bytes(pipeline: Pipeline, plan: Plan, shape: Sequence[float], cases: int) -> int:
    """Main memory that prepared cases will take beside a step on a CPU; 0 on a GPU, and where they stay on disk."""
    if choose_device(pipeline.compute.device).name != "cpu":
        return 0
    size = int(np.prod(shape) * cases * (BYTES_PER_VOXEL * plan.in_channels + 1))
    ram = ram_available_bytes() if pipeline.compute.ram is None else parse_bytes(pipeline.compute.ram)
    return size if size <= HELD_SHARE * ram else 0


def step_of(found: Measured, batch: int) -> Step:
    """A step of so many patches: as it was taken, else by the line between its neighbours."""
    steps = sorted(found.steps, key=lambda step: step.batch)
    above = next((step for step in steps if step.batch >= batch), steps[-1])
    if above.batch == batch or len(steps) == 1:
        return replace(above, batch=batch)
    place = steps.index(above)
    low, high = steps[place - 1], steps[place]
    share = (batch - low.batch) / (high.batch - low.batch)
    return Step(
        batch,
        int(low.peak_bytes + share * (high.peak_bytes - low.peak_bytes)),
        round(low.seconds + share * (high.seconds - low.seconds), 3),
    )


def _reason(found: Measured, cap: int, pipeline: Pipeline) -> str:
    how = "a dry step" if found.tried else "the line through smaller dry steps"
    whose = "free memory" if pipeline.compute.ram is None else "compute.ram"
    if choose_device(pipeline.compute.device).memory_bytes:
        whose = "the GPU's memory"
    most = f"at least {MOST}" if found.batch == MOST else f"{found.batch}"
    said = f"measured in {found.precision} by {how}: {most} fit {found.room_bytes / 1e9:.2f} GB of {whose}"
    if cap < found.batch:
        return f"{said}; held at {cap}, which covers {COVERED:.0%} of the training voxels"
    return said


def facts_of(found: BatchFound) -> dict[str, Any]:
    """What takes the place of the estimated figures in plan.yaml."""
    return {"step_seconds": found.seconds, "train_ram_bytes": found.peak_bytes, "measured": True}
