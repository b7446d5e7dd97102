"""The step "train": from prepared cases to a model folder."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.config import Pipeline, Plan, System
from medseg.config_plan import load_plan
from medseg.core.errors import UserError
from medseg.core.progress import duration, say
from medseg.core.run import Result, RunFolder
from medseg.train import several

if TYPE_CHECKING:
    from medseg.train.job import Job, Trained
    from medseg.zoo.card import Card

KEYS = ("system", "train")
READS = ("cases", "plan")
WRITES = ("model",)

SHARE_OF_RAM = 0.3
"""Prepared cases are held in memory as long as they take no more of it than this."""


def inputs(pipeline: Pipeline, folder: RunFolder) -> str:
    """What else the model depends on: the seed, models that are given, which prepared cases there are."""
    from medseg.train.start_from import source_of

    facts = [str(pipeline.compute.seed), _prepared_key(folder)]
    if pipeline.train.search:
        facts.append(repr(pipeline.predict.prompt))
    start = pipeline.train.start_from
    for given in (pipeline.predict.model, start and str(source_of(start))):
        path = Path(given or "") / "model.json"
        facts.append(
            path.read_text(encoding="utf-8", errors="replace") if given and path.is_file() else str(given)
        )
        if given and Path(given).is_file():
            facts.append(f"{Path(given).stat().st_size} {Path(given).stat().st_mtime_ns}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def run(pipeline: Pipeline, folder: RunFolder) -> Result:
    """Trains the one system of this walk and writes its model folder; classical systems are fitted, or written down."""
    if pipeline.predict.model is not None:
        return take_given(Path(pipeline.predict.model), folder)
    from medseg.zoo.build import find

    card = find(pipeline.only_system.name)
    plan = load_plan(folder.plan)
    if card.kind == "classical":
        from medseg.train.classical import train_classical

        return train_classical(pipeline, folder, plan)
    several.require_alone()
    key = several.key_of(pipeline, folder, inputs(pipeline, folder))
    left = several.left_by_others(folder, key)
    if left is not None:
        return left
    processes = several.devices_of(pipeline)
    if processes > 1:
        return several.train_on_several(pipeline, folder, processes, key)
    return train_network(pipeline, folder, plan, card)


def train_here(pipeline: Pipeline, folder: RunFolder) -> Result:
    """The share of this process in a training of several."""
    from medseg.zoo.build import find

    return train_network(pipeline, folder, load_plan(folder.plan), find(pipeline.only_system.name))


def take_given(source: Path, folder: RunFolder) -> Result:
    """Copies the model that was given, so that the run folder is complete by itself."""
    from medseg.model.folder import copy_model

    facts = copy_model(source, folder.model)
    line = f"nothing to train: the given {facts['system']['name']} is used, model {facts['hash'][:12]}"
    return Result("train", line, details={"model": facts["hash"]})


def train_network(pipeline: Pipeline, folder: RunFolder, plan: Plan, card: Card) -> Result:
    """Trains, writes the model folder, and says in the checkpoint that it is over; it stays, to be prolonged."""
    import torch

    from medseg.ingest.augment.build import build_augmenter
    from medseg.model.folder import build_system, save_model
    from medseg.model.learnt import learnt_facts
    from medseg.train.checkpoints import mark_finished
    from medseg.train.loop import train
    from medseg.train.objective import without_effect
    from medseg.train.undrawn import require_fixed_sides
    from medseg.train.upright import upright_facts

    system = with_deep_supervision(pipeline, card)
    job = make_job(pipeline, folder, several.share_batch(plan, several.started_together()), system)
    torch.manual_seed(pipeline.compute.seed)
    net = build_system(system, plan)
    if idle := without_effect(net, pipeline.train):
        say(f"train    {idle}")
    start, seen = take_start(net, pipeline, folder, system, plan)
    spec = pipeline.train.augment
    require_fixed_sides(spec, job)
    beyond = pipeline.train.beyond_image
    augment: Any = None if spec == "none" else build_augmenter(spec, plan, pipeline.compute.seed, beyond)
    if augment is not None and plan.previous is not None:
        from medseg.train.cascade import CascadeAugmenter

        augment = CascadeAugmenter(augment, plan)
    trained = train(net, job, augment)
    trained = replace(trained, notes=(*seen, *trained.notes))
    for note in trained.notes:
        say(f"train    {note}")
    if not several.is_first():
        return Result("train", in_words(trained))
    digest = save_model(
        folder.model,
        net,
        system=system,
        plan=plan,
        scores=trained.scores,
        data_hash=data_hash(folder),
        extra={
            "training": facts_of(trained, job),
            "learnt_from": learnt_facts(folder, job.train, start),
            **upright_facts(job.train, plan),
        },
    )
    if plan.previous is not None:
        digest = add_earlier(pipeline, folder, plan)
    mark_finished(folder.checkpoints)
    return Result(
        "train", in_words(trained), len(job.train), details={"model": digest, **numbers_of(trained)}
    )


def take_start(
    net: Any, pipeline: Pipeline, folder: RunFolder, system: System, plan: Plan
) -> tuple[Path | None, tuple[str, ...]]:
    """Gives the network the weights of `train.start_from`. Returns where they come from, and what has to be noted."""
    from medseg.model.learnt import seen_before
    from medseg.train.start_from import source_of, take_weights

    if pipeline.train.start_from is None:
        return None, ()
    source = source_of(pipeline.train.start_from)
    say(f"train    {take_weights(net, source, system, plan).line}")
    seen = seen_before(source, folder)
    return source, (seen,) if seen else ()


def add_earlier(pipeline: Pipeline, folder: RunFolder, plan: Plan) -> str:
    """Copies the earlier stage of a cascade into the model folder, which then needs nothing else. Returns its hash."""
    from medseg.ingest.previous import earlier_run
    from medseg.model.cascade import add_previous

    assert pipeline.ingest.previous is not None
    assert plan.previous is not None
    return add_previous(folder.model, earlier_run(pipeline.ingest.previous).model)


def make_job(pipeline: Pipeline, folder: RunFolder, plan: Plan, system: System) -> Job:
    """The training's data and settings; raises UserError when no training case has a label."""
    from medseg.core.machine import choose_device, cores
    from medseg.data.cohort import cases_of, load_cohort
    from medseg.ingest.cache import prepared_cases
    from medseg.train.job import Job

    cohort, prepared = load_cohort(folder), prepared_cases(folder)
    paths = {
        split: {row.case: prepared[row.case] for row in cases_of(cohort, split) if row.case in prepared}
        for split in ("train", "val")
    }
    if not paths["train"]:
        raise UserError(
            "no training case has a label",
            str(folder.cases.name),
            "add labels, or give a trained model: predict.model",
        )
    paths["unlabelled"] = unlabelled_of(pipeline, folder, plan)
    cases = open_cases({name: path for part in paths.values() for name, path in part.items()}, pipeline)
    device = choose_device(pipeline.compute.device)
    return Job(
        system=system,
        settings=pipeline.train,
        plan=plan,
        train={name: cases[name] for name in paths["train"]},
        val={name: cases[name] for name in paths["val"]},
        folder=folder,
        unlabelled={name: cases[name] for name in paths["unlabelled"]},
        seed=pipeline.compute.seed,
        device=device.name,
        cores=max(1, (pipeline.compute.cores or cores()) // several.on_this_machine()),
        data_key=_prepared_key(folder) + data_hash(folder),
    )


def unlabelled_of(pipeline: Pipeline, folder: RunFolder, plan: Plan) -> dict[str, Path]:
    """Case -> prepared folder of the cases without a label, where the procedure learns from them."""
    from medseg.train.procedures.table import find_procedure

    kind, _ = find_procedure(pipeline.train.procedure)
    if not kind.needs_unlabelled:
        return {}
    if plan.previous is not None:
        raise UserError(
            "a cascade learns from labelled cases only: there are no masks of the earlier stage for the others",
            "train.procedure, ingest.previous",
            "set train.procedure: supervised",
        )
    from medseg.train.unlabelled import prepare_unlabelled

    found = prepare_unlabelled(pipeline, folder, plan)
    say(f"train    {len(found)} cases without a label take part")
    return found


def open_cases(paths: dict[str, Path], pipeline: Pipeline) -> dict[str, Any]:
    """Opens the prepared cases; all of them are held in memory when they take little of it."""
    from medseg.core.machine import parse_bytes, ram_available_bytes
    from medseg.ingest.cache import open_prepared

    cases = {name: open_prepared(path) for name, path in paths.items()}
    room = ram_available_bytes() if pipeline.compute.ram is None else parse_bytes(pipeline.compute.ram)
    if sum(case.nbytes for case in cases.values()) > SHARE_OF_RAM * room / several.on_this_machine():
        return cases
    return {name: open_prepared(path, keep=True) for name, path in paths.items()}


def with_deep_supervision(pipeline: Pipeline, card: Card) -> System:
    """The system with deep supervision switched on where that was asked for and the system offers it."""
    system = pipeline.only_system
    if not pipeline.train.deep_supervision or "deep_supervision" in system.arguments:
        return system
    from medseg.zoo.build import arguments_of

    if "deep_supervision" not in [name for name, _ in arguments_of(card)]:
        say(
            f"train    {card.name} has no outputs for deep supervision; train.deep_supervision changes nothing"
        )
        return system
    return system.model_copy(update={"arguments": {**system.arguments, "deep_supervision": True}})


def data_hash(folder: RunFolder) -> str:
    """Changes with the content of any training or validation case: sha256 of their content hashes."""
    import pandas as pd

    table = pd.read_parquet(folder.cases)
    if "content" not in table:
        return ""
    used = table[(table["status"] == "ok") & table["split"].isin(["train", "val"])]
    return hashlib.sha256("\n".join(sorted(used["content"].astype(str))).encode()).hexdigest()


def numbers_of(trained: Trained) -> dict[str, Any]:
    """Figures for --json, tracking and the report."""
    return {
        "steps": trained.steps,
        "epochs": round(trained.epochs, 2),
        "training_seconds": round(trained.seconds, 1),
        "data_wait_percent": trained.data_wait_percent,
        "augment_percent": trained.augment_percent,
        "precision": trained.precision.name,
        "val_dice": trained.scores.get("dice"),
        "val_iou": trained.scores.get("iou"),
    }


def facts_of(trained: Trained, job: Job) -> dict[str, Any]:
    """What model.json says about the training."""
    return {
        **numbers_of(trained),
        "precision_reason": trained.precision.reason,
        "device": job.device,
        "seed": job.seed,
        "cases": len(job.train),
        "unlabelled_cases": len(job.unlabelled),
        "notes": list(trained.notes),
        "settings": job.settings.model_dump(mode="json", exclude={"start_from"}),
        "kept": "the weights of the last step"
        if not trained.averaged
        else "the running average of the weights",
    }


def in_words(trained: Trained) -> str:
    """The step's last line."""
    dice = trained.scores.get("dice")
    found = "" if dice is None else f", validation Dice {dice:.3f} on {trained.scores['n']} cases"
    return (
        f"{trained.steps} steps in {duration(trained.seconds)} with {trained.precision.name}, every case seen "
        f"{trained.epochs:.0f} times{found}, {trained.data_wait_percent:.0f} % of the time waiting for data, "
        f"{trained.augment_percent:.0f} % augmenting"
    )


def _prepared_key(folder: RunFolder) -> str:
    listing = folder.path / "prepared.json"
    return listing.read_text(encoding="utf-8") if listing.is_file() else ""
