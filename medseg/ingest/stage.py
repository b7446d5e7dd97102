"""The step "ingest": every labelled training and validation case, prepared once and kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from medseg.config import Pipeline, Plan
from medseg.config_plan import load_plan
from medseg.core.atomic import read_json, write_json
from medseg.core.errors import UserError, about
from medseg.core.machine import cores, parse_bytes, ram_available_bytes
from medseg.core.progress import say
from medseg.core.run import Result, RunFolder

if TYPE_CHECKING:
    from pathlib import Path

    from medseg.ingest.previous import Mask
    from medseg.ingest.spread import Order
    from medseg.jobs.executor import Outcome

KEYS = ("data", "ingest", "system", "predict")
READS = ("cases", "plan")
WRITES = ("prepared",)

BYTES_PER_VOXEL = 24
"""Memory a case needs while it is prepared: as read, in float32, target, indicators."""


def inputs(pipeline: Pipeline, folder: RunFolder) -> str:
    """What the masks of a cascade's earlier stage are made of."""
    if pipeline.ingest.previous is None or pipeline.predict.model is not None:
        return ""
    from medseg.ingest.previous import digest_of

    return digest_of(pipeline.ingest.previous)


def run(pipeline: Pipeline, folder: RunFolder) -> Result:
    """Prepares the cases that training and validation read; those that are current are left as they are."""
    reason = nothing_to_do(pipeline)
    if reason:
        return Result("ingest", f"nothing to prepare: {reason}")
    from medseg.data.cohort import cases_of, load_cohort

    plan = load_plan(folder.plan)
    cohort = load_cohort(folder)
    rows = [*cases_of(cohort, "train"), *cases_of(cohort, "val")]
    labelled = [row for row in rows if row.labels]
    skipped = {row.case: "no label" for row in rows if not row.labels}
    if not labelled:
        raise UserError(
            "no case for training has a label",
            hint="add labels, or predict with a trained model: predict.model",
        )
    return prepare_all(pipeline, folder, plan, cohort, labelled, skipped)


def nothing_to_do(pipeline: Pipeline) -> str:
    """Why a journey needs no prepared cases, or an empty text."""
    from medseg.zoo.build import find

    if pipeline.predict.model is not None:
        return "the model is given, prediction prepares its own cases"
    card = find(pipeline.only_system.name)
    return f"{card.name} reads cases as they are" if card.kind == "classical" else ""


def prepare_all(
    pipeline: Pipeline,
    folder: RunFolder,
    plan: Plan,
    cohort: Any,
    rows: Sequence[Any],
    skipped: dict[str, str],
) -> Result:
    """Prepares `rows` in threads or by the workers of `compute.cluster`; a failing case is named, the others go on."""
    from medseg.ingest.cache import plan_key, prepared_folder, remove_leftovers
    from medseg.ingest.spread import Order

    masks = earlier_masks(pipeline, plan, rows)
    earlier = (
        "" if plan.previous is None else plan.previous.model_dump_json(include={"classes", "background"})
    )
    key = plan_key(plan, label_facts(pipeline) + earlier)
    place = prepared_folder(folder, key)
    remove_leftovers(place)
    made: dict[str, str] = {}
    failed: dict[str, str] = {}
    for outcome in _outcomes(Order(pipeline, plan, tuple(cohort.classes), place, key), rows, masks):
        if outcome.error is None:
            made[outcome.item.case] = str(outcome.value)
        else:
            failed[outcome.item.case] = outcome.reason
    if not made:
        raise UserError(
            f"not one of {len(rows)} cases could be prepared",
            hint="correct the first and start again",
            faults=[f"case {case}: {reason}" for case, reason in list(failed.items())[:5]],
        )
    write_json(folder.path / "prepared.json", {"key": key, "cases": sorted(made)})
    fresh = sum(word == "made" for word in made.values())
    size = sum(f.stat().st_size for case in made for f in (place / case).iterdir())
    line = f"{len(made)} cases prepared ({fresh} new, {len(made) - fresh} kept), {size / 1e6:.0f} MB"
    lost = lost_in_cases(place, sorted(made))
    for name, count in lost.items():
        say(
            f"ingest   {name} is lost in {count} of {len(made)} cases: smaller than a voxel of the network's grid, or cut "
            "away with the margins; a finer ingest.spacing_mm, or ingest.crop: none, keeps it"
        )
    details = {"key": key, "bytes": size, "new": fresh, "kept": len(made) - fresh, "lost": lost}
    return Result("ingest", line, len(made), failed, skipped, details=details)


def lost_in_cases(place: Path, cases: Sequence[str]) -> dict[str, int]:
    """Class -> in how many prepared cases nothing is left of what the label has of it; only classes that are lost."""
    from collections import Counter

    return dict(
        Counter(name for case in cases for name in read_json(place / case / "case.json").get("lost", ()))
    )


def _outcomes(order: Order, rows: Sequence[Any], masks: dict[str, Mask]) -> Iterator[Outcome[Any, str]]:
    """What became of each row, as they are done."""
    from threadpoolctl import threadpool_limits

    from medseg.ingest.spread import by_workers
    from medseg.jobs.executor import map_cases

    workers = _workers(order.pipeline, order.plan)
    if order.pipeline.compute.cluster.kind != "none":
        yield from by_workers(order, rows, masks, workers)
        return
    # One thread a case: matrix products that start threads of their own would only wait for each other.
    with threadpool_limits(1):
        yield from map_cases(
            lambda row: prepare_case(row, order, masks.get(row.case)),
            rows,
            "ingest",
            workers=workers,
            name=lambda row: f"case {row.case}",
        )


def earlier_masks(pipeline: Pipeline, plan: Plan, rows: Sequence[Any]) -> dict[str, Mask]:
    """Case -> mask of the earlier stage; nothing where the run is no cascade.

    Raises UserError when the earlier run has changed since the plan was made, or lacks cases.
    """
    run = pipeline.ingest.previous
    if run is None or plan.previous is None:
        return {}
    from medseg.ingest.previous import KEY, in_words, masks_for, read_previous

    if read_previous(run).model != plan.previous.model:
        raise UserError(
            f"{run} holds another model than when the plan was made", KEY, "plan again: --force plan"
        )
    masks = masks_for(run, rows)
    say(f"ingest   {in_words(masks)}")
    return masks


def prepare_case(row: Any, order: Order, mask: Mask | None = None) -> str:
    """Prepares one case unless it is current; returns "made" or "kept". mask: of a cascade's earlier stage."""
    from medseg.data.cohort import open_case
    from medseg.ingest import cache
    from medseg.ingest.prepare import prepare_image, prepare_target
    from medseg.ingest.targets import lost_classes
    from medseg.io.doors import content_hash

    plan = order.plan
    with about(row.case, "preparing"):
        earlier = "" if mask is None else f" {content_hash([mask.path])}"
        facts_of_row = f"{cache.content_of(row)} {row.values} {row.rest_is_background} {row.known}{earlier}"
        case_key = cache.case_key(order.key, facts_of_row)
        target_path = order.place / row.case
        if cache.is_current(target_path, case_key):
            return "kept"
        case = open_case(row, order.pipeline.data, order.classes)
        image = case.image()
        grid, prepared = image.geometry, prepare_image(image, plan)
        del image  # prepared and raw need not lie in memory beside the label
        label = case.label(grid)
        target = prepare_target(label, prepared, plan)
        lost = lost_classes(label, target, plan)
        del label
        if mask is not None and plan.previous is not None:
            from medseg.ingest.previous import read_mask, with_previous

            prepared = with_previous(prepared, read_mask(mask, plan.previous), plan)
        known = None if row.known is None else list(row.known)
        facts = {"key": case_key, "background": plan.background, "known": known, "lost": lost}
        cache.store_case(target_path, prepared, target, facts)
        return "made"


def label_facts(pipeline: Pipeline) -> str:
    """What of the pipeline's data section changes the voxels that a case's reader returns."""
    wanted = (
        "classes",
        "ignore",
        "background",
        "channels",
        "select",
        "grid",
        "not_finite",
        "spacing_tolerance",
    )
    return pipeline.data.model_dump_json(include=set(wanted))


def _workers(pipeline: Pipeline, plan: Plan) -> int:
    """As many threads as were asked for or there are cores, and no more than fit into memory."""
    asked = pipeline.ingest.workers or pipeline.compute.workers or pipeline.compute.cores or cores()
    budget = ram_available_bytes() if pipeline.compute.ram is None else parse_bytes(pipeline.compute.ram)
    largest = int(plan.estimate.get("largest_case_voxels", 0)) * BYTES_PER_VOXEL
    return max(1, min(asked, budget // largest if largest else asked))
