"""The step "plan": looks at the training cases and writes plan.yaml, every decision with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medseg.config import IntensityPlan, Pipeline, Plan, System
from medseg.config_plan import save_plan
from medseg.core.errors import UserError
from medseg.core.progress import say
from medseg.core.run import Result, RunFolder
from medseg.ingest.asked import require_grid
from medseg.plan.configurations import advice
from medseg.plan.grids import mirrored_sides

KEYS = ("data", "ingest", "system", "train", "predict", "compute")
READS = ("cases",)
WRITES = ("plan",)

FEW_STEPS = 100
"""Below this a network from scratch hardly leaves its random start."""


def inputs(pipeline: Pipeline, folder: RunFolder) -> str:
    """The model of a cascade's earlier stage."""
    if pipeline.ingest.previous is None or pipeline.predict.model is not None:
        return ""
    from medseg.ingest.previous import read_previous

    return read_previous(pipeline.ingest.previous).model_dump_json()


def run(pipeline: Pipeline, folder: RunFolder) -> Result:
    """Writes the plan of the one system of this walk."""
    if pipeline.predict.model is not None:
        plan = plan_of_model(Path(pipeline.predict.model))
        save_plan(plan, folder.plan)
        return Result("plan", "the plan is the model's own", details=plan.estimate)
    from medseg.data.cohort import load_cohort
    from medseg.plan.decide import decide
    from medseg.plan.fingerprint import take_fingerprint
    from medseg.zoo.build import find

    card = find(pipeline.only_system.name)
    cohort = load_cohort(folder)
    rows = _rows_to_measure(cohort, card.kind)
    if card.kind != "classical":
        _require_grids(pipeline, folder)
    fingerprint = take_fingerprint(rows, pipeline, cohort.classes)
    _require_dims(card, pipeline.only_system, fingerprint.dims)
    if card.kind == "classical":
        _refuse_stages(pipeline)
        plan = classical_plan(pipeline, cohort, fingerprint)
    else:
        plan = decide(pipeline, cohort, fingerprint, card)
        if mirrored := mirrored_sides(pipeline, cohort.classes, fingerprint.dims):
            say(f"plan     {mirrored}")
    save_plan(plan, folder.plan)
    for line in advice(pipeline.only_system, plan.estimate) if folder.parent is None else []:
        say(line)  # in a comparison it is known what is compared
    return Result("plan", in_words(plan, pipeline), done=len(fingerprint.cases), details=plan.estimate)


def plan_of_model(model: Path) -> Plan:
    """The plan that travels in a model folder."""
    from medseg.model.facts import load_facts, read_plan

    plan = read_plan(load_facts(model), str(model))
    return plan.model_copy(
        update={"reasons": {**plan.reasons, "dims": "taken over from the model that was given"}}
    )


def classical_plan(pipeline: Pipeline, cohort: Any, fingerprint: Any) -> Plan:
    """The plan of a method that reads cases as they are."""
    system = pipeline.only_system
    classes = [info.as_json() for info in cohort.classes] or _classes_of_method(pipeline, fingerprint)
    return Plan(
        dims=fingerprint.dims,
        in_channels=fingerprint.channels,
        classes=classes,
        overlapping=pipeline.data.overlapping,
        out_channels=len(classes) + 1,
        spacing_mm=None,
        intensity=[IntensityPlan(scheme="none")] * fingerprint.channels,
        patch_size=[int(n) for n in fingerprint.median_shape],
        batch_size=1,
        foreground_fraction=fingerprint.foreground_fraction(cohort.classes),
        volume_ml=fingerprint.volume_ml(cohort.classes),
        reasons={
            "spacing_mm": f"{system.name} works on the case's own grid",
            "intensity": f"{system.name} reads the numbers of the file",
            "patch_size": "the median image; the method sees whole images",
        },
    )


def in_words(plan: Plan, pipeline: Pipeline) -> str:
    """One line: grid, patch, batch, and what a step will cost."""
    if not plan.estimate:
        return f"{pipeline.only_system.name} reads {plan.dims}D cases as they are"
    unit = "px" if plan.spacing_px else "mm"
    grid = "x".join(f"{s:.3g}" for s in plan.spacing) + f" {unit}" if plan.spacing else "pixels as they are"
    patch = "x".join(str(n) for n in plan.patch_size)
    cost = plan.estimate
    steps = cost["train_minutes"] * 60 / max(cost["step_seconds"], 1e-9)
    cramped = steps < FEW_STEPS and pipeline.train.steps is None
    few = f"; only {steps:.0f} steps fit: a smaller system.size would learn more" if cramped else ""
    return (
        f"{grid}, patches of {patch}, {plan.batch_size} a step; a step takes about "
        f"{cost['step_seconds']:.2g} s and {cost['train_ram_bytes'] / 1e9:.1f} GB, "
        f"training about {cost['train_minutes']:.2g} min, predicting {cost['predict_seconds']:.2g} s a case{few}"
    )


def _require_grids(pipeline: Pipeline, folder: RunFolder) -> None:
    """Holds the grid that was asked for against what the check knows of each case, before any is read again."""
    import pandas as pd

    table = pd.read_parquet(folder.cases)
    if "shape" not in table:
        return
    used = table[(table["status"] == "ok") & table["shape"].notna()]
    for shape, spacing, unit, channels in zip(
        used["shape"], used["spacing"], used["unit"], used["channels"], strict=True
    ):
        require_grid(pipeline, [int(n) for n in shape], list(map(float, spacing)), unit, int(channels))


def _require_dims(card: Any, system: System, dims: int) -> None:
    """Raises UserError where the system has no form for these images."""
    slices = system.configuration == "2d" and dims == 3
    if (2 if slices else dims) in card.dims:
        return
    kind = "flat images" if dims == 2 else "volumes"
    there = " and ".join(f"{d}D" for d in card.dims)
    can = dims == 3 and not slices and card.kind == "network"
    by_slices = ", or add configuration: 2d, which goes slice by slice" if can else ""
    raise UserError(
        f"{card.name} works on {there} images, these are {'slices' if slices else kind}",
        "system.name",
        f"choose another: medseg list --dims {2 if slices else dims}{by_slices}",
    )


def _refuse_stages(pipeline: Pipeline) -> None:
    system = pipeline.only_system
    if system.configuration != "full":
        raise UserError(
            f"{system.name} reads images as they are and has no configuration {system.configuration}",
            "system.configuration",
            "leave it out, or choose a network: medseg list",
        )
    if pipeline.ingest.previous is not None:
        raise UserError(
            f"{pipeline.only_system.name} reads images, no masks of an earlier stage",
            "ingest.previous",
            "leave it out, or choose a network: medseg list",
        )


def _rows_to_measure(cohort: Any, kind: str) -> list[Any]:
    from medseg.data.cohort import cases_of

    rows = [row for row in cases_of(cohort, "train") if row.labels]
    if not rows and kind == "classical":
        rows = list(cases_of(cohort, "all"))
    if not rows:
        raise UserError(
            "no case for training has a label",
            hint="add labels, or predict with a trained model: predict.model (--model)",
        )
    return rows


def _classes_of_method(pipeline: Pipeline, fingerprint: Any) -> list[dict[str, Any]]:
    from medseg.core.segmentation import ClassInfo, default_colour
    from medseg.zoo.build import build

    system = pipeline.only_system
    method = build(
        system.name,
        dims=fingerprint.dims,
        in_channels=fingerprint.channels,
        classes=2,
        size=system.size,
        **system.arguments,
    )
    return [
        ClassInfo(name, index, default_colour(k)).as_json()
        for k, (index, name) in enumerate(method.classes.items())
    ]
