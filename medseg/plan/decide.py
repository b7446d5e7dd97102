"""From a fingerprint to a plan: one decision after the other, each with its reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medseg.config import Pipeline, Plan, System
from medseg.config_planned import Previous
from medseg.config_types import OF_PARTS, GuidedFilter
from medseg.core.errors import UserError
from medseg.core.machine import Device, choose_device, cores, parse_bytes, ram_available_bytes
from medseg.core.segmentation import ClassInfo
from medseg.ingest.asked import pixels_asked
from medseg.ingest.previous import read_previous
from medseg.plan import grids
from medseg.plan.configurations import coarser_grid, patch_share, require_coarser, slice_axis, without
from medseg.plan.cost import BACKWARD, OTHER_WORK, NetworkCost, measured_flops, network_cost
from medseg.plan.fingerprint import Fingerprint
from medseg.plan.intensities import decide_intensity
from medseg.plan.measured import facts_of, measured_batch
from medseg.plan.patches import choose_patch, require_fit, step_budget
from medseg.plan.planned import is_planned, planned_arguments, put_back, sized_on_gpu
from medseg.zoo.build import find


def decide(pipeline: Pipeline, cohort: Any, fingerprint: Fingerprint, card: Any) -> Plan:
    """The whole plan of a network."""
    device = choose_device(pipeline.compute.device)
    on_gpu = device.name != "cpu"
    facts, reasons = _data_facts(pipeline, cohort, fingerprint, on_gpu, is_planned(card.name))
    shape = prepared_shape(fingerprint, facts["spacing_mm"] or facts["spacing_px"], facts["crop"])
    net_facts, net_reasons, cost = _network_facts(pipeline, facts, shape, fingerprint.total, device)

    def patch_of(spacing: list[float], size: list[float]) -> list[int]:
        if not isinstance(pipeline.train.patch_size, str):
            return pipeline.train.patch_size
        there = {**facts, "spacing_mm": spacing}
        return list(_proposed(pipeline, there, size, fingerprint.total, device)[0]["patch_size"])

    if pipeline.only_system.configuration == "lowres":
        coarse = require_coarser(facts["spacing_mm"], shape, patch_of)
        reasons["spacing_mm"] = (
            f"lowres: a patch sees a quarter of the case; {reasons['spacing_mm']} at first"
        )
        facts["image_order"], reasons["image_order"] = grids.decide_order(
            coarse, fingerprint, is_planned(card.name)
        )
        facts["spacing_mm"], shape = coarse, prepared_shape(fingerprint, coarse, facts["crop"])
        net_facts, net_reasons, cost = _network_facts(pipeline, facts, shape, fingerprint.total, device)
    if "slices" in net_facts["topology"]:
        facts["mirror_axes"] = [a for a in facts["mirror_axes"] if a != net_facts["topology"]["slices"]]
    measured: dict[str, Any] = {}
    if pipeline.train.batch_size == "measured":
        found = measured_batch(pipeline, Plan(**facts, **net_facts), shape, fingerprint.total)
        net_facts["batch_size"], net_reasons["batch_size"] = found.batch, found.reason
        measured = facts_of(found)
    estimate = estimate_cost(pipeline, cost, net_facts, shape, device, measured)
    estimate["largest_case_voxels"] = (
        int(max(np.prod(c.shape) for c in fingerprint.cases)) * fingerprint.channels
    )
    estimate["device"] = device.reason
    share = patch_share(net_facts["patch_size"], shape)
    estimate["patch_share"] = round(share, 4)
    net_reasons["patch_size"] += f"; covers {min(share, 1):.0%} of the median case"
    alone = pipeline.only_system.configuration == "full" and facts["previous"] is None
    if alone and fingerprint.dims == 3 and facts["spacing_mm"] is not None:
        estimate["lowres_spacing_mm"] = coarser_grid(facts["spacing_mm"], shape, patch_of)
    return Plan(**facts, **net_facts, estimate=estimate, reasons={**reasons, **net_reasons})


def _data_facts(
    pipeline: Pipeline, cohort: Any, fingerprint: Fingerprint, on_gpu: bool, planned: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """What follows from the data alone."""
    data, classes = pipeline.data, cohort.classes
    _require_something_to_learn(classes, fingerprint)
    background = data.background is not None or data.overlapping
    limit = (float("inf") if planned else grids.VOXELS_GPU) if on_gpu else grids.VOXELS_CPU
    grid, why_grid = _grid_facts(pipeline, fingerprint, limit, planned)
    crop, why_crop = grids.decide_crop(pipeline.ingest.crop, data.modality, fingerprint)
    previous, earlier, why_earlier = _earlier_stage(pipeline, fingerprint.channels)
    mirror, why_mirror = grids.decide_mirror(pipeline, (*classes, *earlier), fingerprint)
    channels = tuple(data.channels) or tuple(cohort.channels)
    intensity, why_intensity = decide_intensity(
        pipeline.ingest.intensity, data.modality, channels, fingerprint
    )
    names = ", ".join(info.name for info in classes[:6]) + (" ..." if len(classes) > 6 else "")
    head = "one sigmoid a class: classes may overlap" if data.overlapping else "one softmax over all"
    facts = {
        "dims": fingerprint.dims,
        "in_channels": fingerprint.channels + len(earlier),
        "channels": list(channels) if len(channels) == fingerprint.channels else [],
        "previous": previous,
        "classes": [info.as_json() for info in classes],
        "overlapping": data.overlapping,
        "out_channels": len(classes) + (background and not data.overlapping),
        "background": background,
        "ignore": data.ignore,
        **grid,
        "intensity": intensity,
        "crop": crop,
        "mirror_axes": mirror,
        **_kept_for_prediction(pipeline, classes),
        "foreground_fraction": fingerprint.foreground_fraction(classes),
        "volume_ml": fingerprint.volume_ml(classes),
        "on_border": fingerprint.on_border(classes),
    }
    reasons = {
        "dims": f"all {fingerprint.total} training cases have {fingerprint.dims} axes",
        "classes": names,
        "out_channels": head + (" and the background" if background and not data.overlapping else ""),
        **why_grid,
        "intensity": why_intensity,
        "crop": why_crop,
        "mirror_axes": why_mirror,
        **KEPT,
        "volume_ml": f"smallest and largest in {len(fingerprint.cases)} training cases"
        if facts["volume_ml"]
        else "pixels have no volume",
    }
    return facts, {**reasons, **why_earlier}


def _grid_facts(
    pipeline: Pipeline, fingerprint: Fingerprint, limit: float, planned: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """The network's grid, in mm or in pixels, and how images come onto it. limit: voxels of a prepared case, at most."""
    spacing, why_spacing = grids.decide_spacing(
        pipeline.ingest.spacing_mm, fingerprint, limit, _ram_allowed(pipeline)
    )
    unit = "px" if all(case.unit == "px" for case in fingerprint.cases) else "mm"
    pixels = pixels_asked(pipeline.ingest.spacing_px, fingerprint.dims, unit)
    why_pixels = "nobody asked for another"
    if pixels is not None:
        why_spacing = "photographs have no size in mm"
        why_pixels = "set in the pipeline file (ingest.spacing_px)"
    order, why_order = grids.decide_order(pixels or spacing, fingerprint, planned and pixels is None)
    return (
        {"spacing_mm": spacing, "spacing_px": pixels, "image_order": order},
        {"spacing_mm": why_spacing, "spacing_px": why_pixels, "image_order": why_order},
    )


def _require_something_to_learn(classes: Sequence[ClassInfo], fingerprint: Fingerprint) -> None:
    """Raises UserError without classes, and where no training case holds a voxel of one."""
    if not classes:
        raise UserError("there are no classes to learn", "data.classes", "name them: classes: {lung: 1}")
    if not fingerprint.labelled and fingerprint.total == len(fingerprint.cases):
        raise UserError(
            f"not one voxel of a class is labelled in the {fingerprint.total} training cases",
            "data.classes",
            "`medseg check` says which values the labels hold",
        )


def _earlier_stage(
    pipeline: Pipeline, channels: int
) -> tuple[Previous | None, list[ClassInfo], dict[str, str]]:
    """What a cascade's earlier stage adds to the channels of the image, its classes, and the reasons."""
    if pipeline.ingest.previous is None:
        return None, [], {}
    previous = read_previous(pipeline.ingest.previous)
    classes = [ClassInfo.from_json(info) for info in previous.classes]
    masks = ", ".join(info.name for info in classes)
    return previous, classes, {
        "in_channels": f"{channels} of the image, {len(classes)} of masks: {masks}",
        "previous": "masks of an earlier run (ingest.previous)",
    }  # fmt: skip


KEPT = {
    "margin": "ingest.margin",
    "swap_sides": "train.augment.swap_sides",
    "flips": "predict.flips",
    "guided_filter": "predict.guided_filter",
    "window": "predict.window",
    **{name: f"predict.{name}" for name in OF_PARTS},
}
"""What a model is made with and prediction goes on with; each named by its key in the pipeline file."""


def _kept_for_prediction(pipeline: Pipeline, classes: Sequence[ClassInfo]) -> dict[str, Any]:
    edges, window = pipeline.predict.guided_filter, pipeline.predict.window
    return {
        "margin": pipeline.ingest.margin,
        "swap_sides": grids.decide_swap_sides(pipeline, classes),
        "flips": pipeline.predict.flips is True,
        "guided_filter": edges if isinstance(edges, GuidedFilter) else None,
        "window": None if isinstance(window, str) else list(window),
        **{name: rule for name in OF_PARTS if (rule := getattr(pipeline.predict, name)) != "auto"},
    }


def prepared_shape(fingerprint: Fingerprint, spacing: Sequence[float] | None, crop: str) -> list[float]:
    """The median image in voxels after cropping and resampling."""
    rows = []
    for case in fingerprint.cases:
        shape = case.kept_shape if crop == "nonzero" else case.shape
        ratio = np.ones(len(shape)) if spacing is None else np.asarray(case.spacing) / np.asarray(spacing)
        rows.append(np.maximum(1, np.round(np.asarray(shape) * ratio)))
    return [float(n) for n in np.median(rows, axis=0)]


def _network_facts(
    pipeline: Pipeline, facts: dict[str, Any], shape: Sequence[float], cases: int, device: Device
) -> tuple[dict[str, Any], dict[str, str], NetworkCost]:
    """Patch, batch and topology, for this network on this machine; what the pipeline file says comes first."""
    system, train = pipeline.only_system, pipeline.train
    grids.require_learnt_mirrors(pipeline, facts["mirror_axes"])
    if system.configuration == "2d":
        return _of_slices(pipeline, facts, shape, cases, device)
    facts_of_net, reasons = _proposed(pipeline, facts, shape, cases, device)
    topology = facts_of_net["topology"]
    if not isinstance(train.patch_size, str):
        patch = list(train.patch_size)
        if is_planned(system.name) and len(patch) == facts["dims"]:
            topology, _, _ = planned_arguments(system, _spacing(facts), patch, facts["dims"])
        facts_of_net.update(patch_size=patch, topology=topology)
        reasons["patch_size"] = "set in the pipeline file (train.patch_size)"
    cost = _cost(system, facts, {**topology, **system.arguments})
    require_fit(facts_of_net["patch_size"], cost.divisor, system.name)
    if not isinstance(train.batch_size, str):
        facts_of_net["batch_size"] = train.batch_size
        reasons["batch_size"] = "set in the pipeline file (train.batch_size)"
    return facts_of_net, reasons, cost


def _of_slices(
    pipeline: Pipeline, facts: dict[str, Any], shape: Sequence[float], cases: int, device: Device
) -> tuple[dict[str, Any], dict[str, str], NetworkCost]:
    """As `_network_facts`, for the 2D form of a network whose patches are single slices across the coarsest axis."""
    spacing = facts["spacing_mm"]
    axis = slice_axis(spacing, facts["dims"])
    flat = {**facts, "dims": 2, "spacing_mm": without(axis, spacing), "window": None}
    train = pipeline.train
    if not isinstance(train.patch_size, str) and len(train.patch_size) == facts["dims"]:
        train = train.model_copy(update={"patch_size": without(axis, train.patch_size)})
    system = pipeline.only_system.model_copy(update={"configuration": "full"})
    alone = pipeline.for_system(system).model_copy(update={"train": train})
    found, reasons, cost = _network_facts(alone, flat, without(axis, shape), cases, device)
    found["patch_size"] = [*found["patch_size"][:axis], 1, *found["patch_size"][axis:]]
    found["topology"] = {**found["topology"], "slices": axis}
    _require_sliceable(system, Plan(**facts, **found))
    why = f"the 2D form of {system.name}, slices across axis {axis}, the coarsest"
    return found, {**reasons, "topology": "; ".join([why, *filter(None, [reasons.get("topology")])])}, cost


def _require_sliceable(system: System, plan: Plan) -> None:
    from medseg.model.folder import build_system
    from medseg.zoo.weightless import weightless

    with weightless():
        build_system(system, plan)


def _proposed(
    pipeline: Pipeline, facts: dict[str, Any], shape: Sequence[float], cases: int, device: Device
) -> tuple[dict[str, Any], dict[str, str]]:
    """What the plan would take if nobody said anything."""
    system, dims, spacing = pipeline.only_system, facts["dims"], _spacing(facts)
    on_gpu = device.name != "cpu"
    if is_planned(system.name) and on_gpu and system.size == "paper":
        return _as_nnunet(system.name, facts, shape, cases, (device.memory_bytes or 8e9) / 1e9)
    memory = device.memory_bytes or _ram_budget(pipeline)
    budget = step_budget(pipeline.train, dims, on_gpu, pipeline.compute.cores or cores(), memory)
    cost = _cost(system, facts, dict(system.arguments))
    planned = is_planned(system.name)
    patch, batch = choose_patch(shape, spacing, cost, budget, [4] * dims if planned else None)
    reasons = {"patch_size": f"about equal edges, {budget.reason}", "batch_size": budget.reason}
    topology: dict[str, Any] = {}
    if planned:
        topology, _, patch = planned_arguments(system, spacing, patch, dims)
        reasons["topology"] = "nnU-Net's rule: coarse axes wait until the others have caught up"
    return {"patch_size": patch, "batch_size": batch, "topology": topology}, reasons


def _as_nnunet(
    name: str, facts: dict[str, Any], shape: Sequence[float], cases: int, memory_gb: float
) -> tuple[dict[str, Any], dict[str, str]]:
    """nnU-Net's own choice, to the voxel."""
    entries = len(facts["classes"]) + facts["background"] + (facts["ignore"] is not None)
    sized, order, reason = sized_on_gpu(find(name).name, _spacing(facts), shape, cases, entries, memory_gb)
    topology = {
        "features_per_stage": list(sized.features),
        "strides": [put_back(s, order) for s in sized.topology.strides],
        "kernel_sizes": [put_back(k, order) for k in sized.topology.kernels],
        "blocks_per_stage": list(sized.blocks),
    }
    patch = put_back(sized.topology.patch, order)
    return (
        {"patch_size": patch, "batch_size": sized.batch, "topology": topology},
        {"patch_size": reason, "batch_size": reason, "topology": reason},
    )


def _spacing(facts: dict[str, Any]) -> list[float]:
    return facts["spacing_mm"] or facts["spacing_px"] or [1.0] * facts["dims"]


def _ram_budget(pipeline: Pipeline) -> int:
    # A fixed share of what is installed, not of what is free now: one file gives one plan on one machine.
    from medseg.core.machine import ram_limit_bytes

    return ram_limit_bytes() // 2 if pipeline.compute.ram is None else parse_bytes(pipeline.compute.ram)


def _ram_allowed(pipeline: Pipeline) -> int:
    return ram_available_bytes() if pipeline.compute.ram is None else parse_bytes(pipeline.compute.ram)


def _cost(system: Any, facts: dict[str, Any], arguments: dict[str, Any]) -> NetworkCost:
    return network_cost(
        system.name,
        system.size,
        json.dumps(arguments, sort_keys=True),
        facts["dims"],
        facts["in_channels"],
        facts["out_channels"],
    )


def estimate_cost(
    pipeline: Pipeline,
    cost: NetworkCost,
    net_facts: dict[str, Any],
    shape: Sequence[float],
    device: Device,
    measured: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Seconds, minutes and bytes of training and predicting on this machine, by counting and one short measurement.

    measured: seconds and bytes of a step that was taken; they count instead of what would be estimated.
    """
    measured = measured or {}
    speed = measured_flops(device.name)
    voxels = float(np.prod(net_facts["patch_size"]))
    step = measured.get(
        "step_seconds", cost.step_flops(voxels * net_facts["batch_size"]) * OTHER_WORK / speed
    )
    train = pipeline.train
    minutes = min(
        train.minutes if train.minutes is not None else float("inf"),
        train.steps * step / 60 if train.steps is not None else float("inf"),
    )
    windows, window_voxels = _windows_of(pipeline, shape, net_facts["patch_size"])
    forwards = windows * (2 ** len(shape) if pipeline.predict.flips is True else 1)
    ram = measured.get("train_ram_bytes", cost.step_bytes(voxels * net_facts["batch_size"]))
    allowed = device.memory_bytes or _ram_allowed(pipeline)
    if ram > allowed:
        raise UserError(
            f"a training step would take {ram / 1e9:.1f} GB of {allowed / 1e9:.1f} GB",
            "train.patch_size",
            "take a smaller patch_size, batch_size or system.size",
        )
    return {
        "step_seconds": round(step, 4),
        "train_minutes": round(minutes, 2),
        "train_ram_bytes": ram,
        "predict_windows": windows,
        "predict_seconds": round(
            forwards * cost.step_flops(window_voxels) / BACKWARD * OTHER_WORK / speed, 3
        ),
        "parameters": cost.parameters,
        "step_gflop": round(cost.step_flops(voxels * net_facts["batch_size"]) / 1e9, 2),
        "machine_gflop_per_second": round(speed / 1e9, 1),
        **measured,
    }


def _windows_of(pipeline: Pipeline, shape: Sequence[float], patch: Sequence[int]) -> tuple[int, float]:
    """How many windows cover a prepared image with its margins, and the voxels of one."""
    asked = pipeline.predict.window
    window = patch if isinstance(asked, str) else asked
    keep, around = 1 - pipeline.predict.overlap, 2 * pipeline.ingest.margin
    counts = [max(1, np.ceil((n + around - w) / max(1, w * keep)) + 1) for n, w in zip(shape, window)]
    return int(np.prod(counts)), float(np.prod(window))
