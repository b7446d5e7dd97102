"""Arguments of networks whose stages follow from spacing and patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medseg.plan.nnunet_size import PLANNERS, Sized, size_patch
from medseg.plan.topology import plan_topology

PLANNED = ("nnunet-plain", "nnunet-resenc")
MOST_FEATURES = {2: 512, 3: 320}


def is_planned(name: str) -> bool:
    """Whether a system (by name or alias) takes strides and kernels from the plan."""
    from medseg.zoo.build import find

    return find(name).name in PLANNED


def planned_arguments(
    system: Any, spacing: Sequence[float], patch: Sequence[int], dims: int
) -> tuple[dict[str, Any], tuple[int, ...], list[int]]:
    """Topology arguments for a patch, the multiples it needs, and the patch padded up to them.

    A size with fewer features than the data would allow keeps its number of stages; one with more is cut.
    """
    from medseg.zoo.build import find

    sizes = {**find(system.name).sizes[system.size], **system.arguments}
    features = sizes.get("features_per_stage")
    topology = plan_topology(spacing, patch, most_stages=None if features is None else len(features))
    stages = topology.stages
    chosen = (
        [min(MOST_FEATURES[dims], 32 * 2**s) for s in range(stages)]
        if features is None
        else features[:stages]
    )
    arguments: dict[str, Any] = {
        "features_per_stage": [int(f) for f in chosen],
        "strides": [list(s) for s in topology.strides],
        "kernel_sizes": [list(k) for k in topology.kernels],
    }
    blocks = sizes.get("blocks_per_stage")
    if isinstance(blocks, list | tuple):
        arguments["blocks_per_stage"] = [int(b) for b in blocks[:stages]]
    return arguments, topology.divisor, list(topology.patch)


def planner_for(name: str, memory_gb: float) -> tuple[str, float]:
    """nnU-Net's planner and its memory target for a system on a GPU of so many GB."""
    if name == "nnunet-plain":
        return "nnunet", PLANNERS["nnunet"].reference_gb
    presets = ("nnunet-resenc-xl", "nnunet-resenc-l", "nnunet-resenc-m")
    chosen = next((p for p in presets if PLANNERS[p].reference_gb <= memory_gb), presets[-1])
    return chosen, min(PLANNERS[chosen].reference_gb, memory_gb)


def sized_on_gpu(
    name: str,
    spacing: Sequence[float],
    median_shape: Sequence[float],
    cases: int,
    classes: int,
    memory_gb: float,
) -> tuple[Sized, list[int], str]:
    """nnU-Net's own patch, batch and topology; axes as given (RAS). Also the reason.

    classes: entries of the label table: classes, background, ignore. Returned axis order: `order[i]` is the axis that
    nnU-Net works with as its i-th (its axes are (z, y, x), the coarsest first).
    """
    planner, target = planner_for(name, memory_gb)
    turned = list(range(len(spacing)))[::-1]
    first = max(turned, key=lambda axis: spacing[axis])  # the first of equals in (z, y, x)
    order = [first, *(axis for axis in turned if axis != first)] if len(spacing) == 3 else turned
    sized = size_patch(
        [spacing[a] for a in order],
        [median_shape[a] for a in order],
        float(np.prod(median_shape)) * cases,
        classes,
        PLANNERS[planner],
        target,
    )
    return sized, order, f"nnU-Net's planner {planner} for {target:g} GB"


def put_back(values: Sequence[int], order: Sequence[int]) -> list[int]:
    """Per-axis values in nnU-Net's order -> in the order of our axes."""
    out = [0] * len(order)
    for value, axis in zip(values, order):
        out[axis] = int(value)
    return out
