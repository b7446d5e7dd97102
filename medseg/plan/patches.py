"""Patch and batch size, from what a step may cost in time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseg.config import Train
from medseg.core.errors import UserError
from medseg.plan.cost import CPU_FLOPS_PER_CORE, GPU_FLOPS, OTHER_WORK, NetworkCost

STEPS_WANTED = 300
"""A training that ends by the clock should still take about this many steps."""

SECONDS_A_STEP = 3.0
"""Where the training ends by steps, one step on a CPU should not take longer than this."""

LARGEST = {2: 512 * 512, 3: 128 * 128 * 128}
LARGEST_CPU = {2: 384 * 384, 3: 96 * 96 * 96}
SMALLEST_EDGE = {2: 128, 3: 40}
BATCHES = {2: (2, 32), 3: (2, 12)}
"""Fewest and most patches a step."""


@dataclass(frozen=True)
class Budget:
    """What one training step may use. flops: operations; ram_bytes: memory; reason: where the figures come from."""

    flops: float
    ram_bytes: float
    largest: int
    reason: str


def step_budget(train: Train, dims: int, on_gpu: bool, cores: int, memory_bytes: float) -> Budget:
    """The budget of a step: 300 steps within the training's minutes, or a few seconds each."""
    speed = GPU_FLOPS if on_gpu else CPU_FLOPS_PER_CORE * min(cores, 32)
    if train.minutes is not None and train.steps is None:
        seconds = train.minutes * 60 / STEPS_WANTED
        reason = f"about {STEPS_WANTED} steps in {train.minutes:g} minutes"
    else:
        seconds, reason = SECONDS_A_STEP, f"at most {SECONDS_A_STEP:g} s a step"
    place = "the GPU" if on_gpu else f"{cores} CPU cores"
    largest = LARGEST[dims] if on_gpu else LARGEST_CPU[dims]
    return Budget(
        seconds * speed / OTHER_WORK,
        0.6 * memory_bytes,
        largest,
        f"{reason} on {place}, within {memory_bytes / 1e9:.1f} GB",
    )


def choose_patch(
    shape: Sequence[float],
    spacing: Sequence[float],
    cost: NetworkCost,
    budget: Budget,
    divisor: Sequence[int] | None = None,
) -> tuple[list[int], int]:
    """Patch (voxels) and batch size.

    shape: the median prepared image in voxels. The patch has about equal edges in mm, does not exceed the image by
    more than rounding up, and its edges are multiples of `divisor` (default: the network's).
    """
    dims = len(shape)
    least, most = BATCHES[dims]
    affordable = min(
        budget.flops / cost.step_flops(1) / least,
        (budget.ram_bytes - cost.step_bytes(0)) / max(cost.step_bytes(1) - cost.step_bytes(0), 1) / least,
        budget.largest,
    )
    voxels = max(affordable, SMALLEST_EDGE[dims] ** dims)
    patch = _rounded(_even_box(shape, spacing, voxels), shape, divisor or cost.divisor)
    size = float(np.prod(patch))
    batch = int(budget.flops / cost.step_flops(size))
    room = int((budget.ram_bytes - cost.step_bytes(0)) / max(cost.step_bytes(size) - cost.step_bytes(0), 1))
    return patch, max(least, min(batch, most, max(room, least)))


def _even_box(shape: Sequence[float], spacing: Sequence[float], voxels: float) -> list[float]:
    """The box of so many voxels with equal edges in mm, no edge beyond the image."""
    edges = [0.0] * len(shape)
    free = list(range(len(shape)))
    while free:
        fixed = float(np.prod([edges[a] for a in range(len(shape)) if a not in free]))
        unit = (voxels / fixed * float(np.prod([spacing[a] for a in free]))) ** (1 / len(free))
        over = [a for a in free if unit / spacing[a] > shape[a]]
        if not over:
            for axis in free:
                edges[axis] = unit / spacing[axis]
            break
        for axis in over:
            edges[axis] = float(shape[axis])
            free.remove(axis)
    return edges


def _rounded(edges: Sequence[float], shape: Sequence[float], divisor: Sequence[int]) -> list[int]:
    patch = []
    for edge, n, d in zip(edges, shape, divisor):
        nearest = max(d, round(edge / d) * d)
        # An axis that nearly fits is taken whole: a few voxels more save a second window.
        patch.append(int(-(-n // d) * d) if edge >= 0.8 * n else nearest)
    return patch


def require_fit(patch: Sequence[int], divisor: Sequence[int], name: str) -> None:
    """UserError with the nearest valid sizes when a patch from the pipeline file does not fit the network."""
    if len(patch) != len(divisor):
        raise UserError(
            f"{list(patch)} has {len(patch)} numbers for {len(divisor)}D images",
            "train.patch_size",
            f"give {len(divisor)} numbers, left-right first"
            if len(divisor) == 3
            else "give rows and columns",
        )
    if all(n > 0 and n % d == 0 for n, d in zip(patch, divisor)):
        return
    below = [max(d, n // d * d) for n, d in zip(patch, divisor)]
    above = [max(d, -(-n // d) * d) for n, d in zip(patch, divisor)]
    raise UserError(
        f"{list(patch)} does not suit {name}, which needs multiples of {list(divisor)}",
        "train.patch_size",
        f"nearest: {below}" + (f" or {above}" if above != below else ""),
    )
