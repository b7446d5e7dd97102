"""One entry of a benchmark, in a process of its own: `python -m medseg.bench.one JOB.json RESULT.json`.

Its own process makes the peak memory that of one system, and keeps a crash to that system.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.bench.recipe import Recipe
from medseg.config import Pipeline, Plan, System
from medseg.core.atomic import read_json, write_json
from medseg.core.errors import UserError
from medseg.core.run import RunFolder

if TYPE_CHECKING:
    from torch import nn

PLANNED_DIVISOR = 16
"""Networks whose stages follow from the patch take a patch of multiples of this."""


@dataclass(frozen=True)
class Entry:
    """What one process is to do. base: the folder in which the data set lies prepared. key: of the entry."""

    recipe: Recipe
    data_set: str
    system: str
    size: str
    root: Path
    base: Path
    key: str

    def as_json(self) -> dict[str, Any]:
        facts = {
            name: str(getattr(self, name)) for name in ("data_set", "system", "size", "root", "base", "key")
        }
        return {**facts, "recipe": self.recipe.model_dump(mode="json")}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Entry:
        return cls(
            recipe=Recipe.model_validate(facts["recipe"]),
            data_set=str(facts["data_set"]),
            system=str(facts["system"]),
            size=str(facts["size"]),
            root=Path(facts["root"]),
            base=Path(facts["base"]),
            key=str(facts["key"]),
        )

    @property
    def folder(self) -> RunFolder:
        """Where the process writes; prepared cases are those of the data set."""
        return RunFolder(self.base).system(self.system)

    @property
    def is_baseline(self) -> bool:
        from medseg.bench.baselines import BASELINES

        return self.system in BASELINES


def measure(entry: Entry) -> dict[str, Any]:
    """Trains, predicts and scores; returns the measured columns of the entry."""
    from medseg.config_plan import load_plan

    pipeline = pipeline_of(entry)
    folder = entry.folder
    folder.path.mkdir(parents=True, exist_ok=True)
    for step in ("plan", "ingest"):
        _take(step, pipeline, folder)
    plan = load_plan(folder.plan)
    fit = fit_baseline if entry.is_baseline else fit_network
    net, learnt = fit(entry, pipeline, folder, plan)
    parameters = sum(p.numel() for p in net.parameters())
    effort = {"parameters": parameters, "gflop": gflop(net, plan)}
    spent = predict_some(entry, pipeline, folder, plan, net)
    _take("score", pipeline, folder)
    return {
        **learnt,
        **effort,
        **spent,
        **scores_of(folder),
        **_memory(pipeline),
        "patch": list(plan.patch_size),
    }


def pipeline_of(entry: Entry) -> Pipeline:
    """The pipeline of this system, with the patch rounded up to what the network takes."""
    name = entry.recipe.reference if entry.is_baseline else entry.system
    system = System(name=name, size=entry.size)
    pipeline = with_data_set(entry.recipe.pipeline(entry.data_set, system, entry.root))
    patch = pipeline.train.patch_size
    if isinstance(patch, str) or entry.is_baseline:
        return pipeline
    fitted = fitting_patch(system, patch)
    return pipeline.model_copy(update={"train": pipeline.train.model_copy(update={"patch_size": fitted})})


def with_data_set(pipeline: Pipeline) -> Pipeline:
    """The pipeline with what the data set says of its classes, as the walk along the road has it."""
    from medseg.data.cohort import resolved

    return pipeline.model_copy(update={"data": resolved(pipeline.data)})


def fitting_patch(system: System, patch: Sequence[int]) -> list[int]:
    """The recipe's patch, rounded up to the multiples and the least size that a network needs."""
    from medseg.plan.planned import is_planned
    from medseg.zoo.build import build
    from medseg.zoo.effort import fitting
    from medseg.zoo.weightless import weightless

    if is_planned(system.name):
        return [-(-int(n) // PLANNED_DIVISOR) * PLANNED_DIVISOR for n in patch]
    with weightless():
        net = build(
            system.name, dims=len(patch), in_channels=1, classes=2, size=system.size, **system.arguments
        )
    return list(fitting(patch, net))


def fit_network(
    entry: Entry, pipeline: Pipeline, folder: RunFolder, plan: Plan
) -> tuple[nn.Module, dict[str, Any]]:
    """Trains a fresh network by the clock; no validation in between, so all systems have the same time for steps.

    On a CPU the clock counts the process's own seconds, so that entries are comparable whatever else the machine does.
    """
    import torch

    from medseg.ingest.augment.build import build_augmenter
    from medseg.model.folder import build_system
    from medseg.train.loop import train
    from medseg.train.stage import make_job

    system = pipeline.only_system
    job = make_job(pipeline, folder, plan, system)
    job = replace(job, val={}, timer=timer_of(job.device))
    torch.manual_seed(pipeline.compute.seed)
    net = build_system(system, plan)
    spec = pipeline.train.augment
    beyond = pipeline.train.beyond_image
    augment = None if spec == "none" else build_augmenter(spec, plan, pipeline.compute.seed, beyond)
    trained = train(net, job, augment)
    return net, {
        "steps": trained.steps,
        "train_seconds": round(trained.seconds, 2),
        "step_seconds": round(trained.seconds / trained.steps, 4),
        "batch": plan.batch_size,
        "precision": trained.precision.name,
        "device": job.device,
    }


def timer_of(device: str) -> Callable[[], float]:
    """Seconds of this process's threads on a CPU, of the wall on a GPU."""
    return time.process_time if device == "cpu" else time.monotonic


def fit_baseline(
    entry: Entry, pipeline: Pipeline, folder: RunFolder, plan: Plan
) -> tuple[nn.Module, dict[str, Any]]:
    """A baseline, counted from the training cases."""
    from medseg.bench.baselines import fit_baseline as fit
    from medseg.train.stage import make_job

    job = make_job(pipeline, folder, plan, pipeline.only_system)
    return fit(entry.system, job.train, plan, pipeline.compute.seed).eval(), {
        "steps": 0,
        "device": job.device,
    }


def gflop(net: nn.Module, plan: Plan) -> float | None:
    """10^9 operations of one forward pass over one patch; None where they cannot be counted."""
    from medseg.zoo.effort import fitting, flops_of

    device = next((str(p.device) for p in net.parameters()), "cpu")
    shape = (1, plan.in_channels, *fitting(plan.patch_size, net))
    try:
        return round(flops_of(net, shape, device) / 1e9, 3)
    except (RuntimeError, NotImplementedError):
        return None


def predict_some(
    entry: Entry, pipeline: Pipeline, folder: RunFolder, plan: Plan, net: nn.Module
) -> dict[str, Any]:
    """Predicts the recipe's number of held-out cases, evenly spaced, as `medseg predict` would."""
    from functools import partial

    import torch

    from medseg.data.cohort import cases_of, load_cohort, open_case
    from medseg.ingest.targets import classes_of
    from medseg.model.folder import Model
    from medseg.predict.case import Predictor
    from medseg.predict.many import Job, Task, run_job
    from medseg.predict.memory import budget_bytes
    from medseg.predict.outputs import settings_digest
    from medseg.predict.stage import refuse_all_failed

    torch.set_num_threads(pipeline.compute.cores or 1)
    cohort = load_cohort(folder)
    rows = evenly(cases_of(cohort, "holdout"), entry.recipe.data_set(entry.data_set).cases)
    model = Model(net.eval(), None, plan, classes_of(plan), pipeline.only_system, entry.key, {})
    digest = settings_digest(pipeline.predict, pipeline.data)
    job = Job(Predictor(model, pipeline.predict), folder.predictions, pipeline.predict, digest, budget_bytes(pipeline.compute))  # fmt: skip
    folder.predictions.mkdir(parents=True, exist_ok=True)
    files = [tuple(name for channel in row.images for name in channel) for row in rows]
    timer = timer_of(pipeline.compute.device)
    before = timer()
    result = run_job(job, [
        Task(row.case, partial(open_case, row, pipeline.data, cohort.classes), names)
        for row, names in zip(rows, files)
    ])  # fmt: skip
    refuse_all_failed(result)
    if result.failed:
        case, reason = next(iter(result.failed.items()))
        raise UserError(f"{len(result.failed)} cases failed, {case}: {reason}")
    return {"cases": result.done, "image_seconds": round((timer() - before) / result.done, 3)}


def evenly(rows: Sequence[Any], count: int) -> list[Any]:
    """`count` of the rows, evenly spaced from the first to the last; all of them where there are fewer."""
    if len(rows) <= count:
        return list(rows)
    step = (len(rows) - 1) / max(1, count - 1)
    return [rows[round(i * step)] for i in range(count)]


def scores_of(folder: RunFolder) -> dict[str, Any]:
    """Mean Dice as the score step has it, and mIoU over the classes of all scored voxels together."""
    import pandas as pd

    facts = read_json(folder.scores_json)
    rows = pd.read_parquet(folder.scores_table)
    sums = rows[~rows["merged"].astype(bool)].groupby("class", sort=False)[["tp", "fp", "fn"]].sum()
    either = sums.sum(axis=1)
    iou = (sums["tp"] / either.where(either > 0)).dropna()
    return {
        "dice": round(float(facts["mean"]["dice"]), 5),
        "miou": round(float(iou.mean()), 5),
        "classes": {
            str(name): {
                "dice": _rounded(facts["per_class"][name].get("dice")),
                "iou": _rounded(iou.get(name)),
            }
            for name in sums.index
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 5)


def _take(step: str, pipeline: Pipeline, folder: RunFolder) -> None:
    """One step of the road, in the entry's own folder."""
    import importlib

    importlib.import_module(f"medseg.{step}.stage").run(pipeline, folder)


def _memory(pipeline: Pipeline) -> dict[str, Any]:
    import torch

    from medseg.core.machine import peak_ram_bytes

    on_gpu = pipeline.compute.device != "cpu" and torch.cuda.is_available()
    gpu = {"gpu_peak_bytes": int(torch.cuda.max_memory_allocated())} if on_gpu else {}
    return {"peak_ram_bytes": peak_ram_bytes(), **gpu}


def reason_of(err: BaseException) -> str:
    """The first line of what went wrong."""
    text = err.what if isinstance(err, UserError) else f"{type(err).__name__}: {err}"
    return text.splitlines()[0][:300] if text.strip() else type(err).__name__


def main(job: Path, result: Path) -> int:
    """Measures the entry of a job file; what went wrong is written like a result."""
    import traceback

    entry = Entry.from_json(read_json(job))
    threads = str(entry.recipe.settings(entry.data_set).get("compute", {}).get("cores", 1))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = threads
    try:
        write_json(result, {"state": "done", **measure(entry)})
    except Exception as err:  # whatever a system may raise is its own entry's business
        traceback.print_exc()
        write_json(result, {"state": "failed", "error": reason_of(err)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
