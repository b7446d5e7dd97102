"""The step "predict": masks of the chosen cases, each on its own grid, with what they cost and what is odd."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.config import Pipeline
from medseg.core.errors import UserError
from medseg.core.machine import choose_device, cores
from medseg.core.progress import say
from medseg.core.run import Result, RunFolder

if TYPE_CHECKING:
    from medseg.predict.many import Job

KEYS = ("data", "predict")
READS = ("cases", "sources", "model")
WRITES = ("predictions",)


def inputs(pipeline: Pipeline, folder: RunFolder) -> str:
    """The hash of the model, wherever it lies."""
    from medseg.model.facts import load_facts

    return str(load_facts(model_folder(pipeline, folder))["hash"])


def model_folder(pipeline: Pipeline, folder: RunFolder) -> Path:
    """The model that predicts: the one that is given, else the run's own."""
    return Path(pipeline.predict.model).expanduser() if pipeline.predict.model else folder.model


def run(pipeline: Pipeline, folder: RunFolder) -> Result:
    """Predicts the cases of `predict.cases`; complete ones are kept. Raises UserError when no case came through."""
    from medseg.data.cohort import load_cohort, open_case
    from medseg.predict.many import Task, run_job

    cohort = load_cohort(folder)
    rows = choose_rows(cohort, which_cases(pipeline))
    job = open_job(pipeline, [model_folder(pipeline, folder)], folder.predictions)
    if pipeline.predict.model is None:
        drop_outdated(folder.predictions, job.predictor.model.hash)
    tasks = [
        Task(
            row.case,
            partial(open_case, row, pipeline.data, cohort.classes),
            tuple(name for channel in row.images for name in channel),
        )
        for row in rows
    ]
    folder.predictions.mkdir(parents=True, exist_ok=True)
    result = run_job(job, tasks)
    refuse_all_failed(result)
    return result


def which_cases(pipeline: Pipeline) -> str:
    """`auto`: the held-out cases where some were trained on; all of them where nothing was learnt from this cohort."""
    from medseg.zoo.build import find

    if pipeline.predict.cases != "auto":
        return pipeline.predict.cases
    learnt = pipeline.predict.model is None and find(pipeline.only_system.name).kind == "network"
    return "holdout" if learnt else "all"


def choose_rows(cohort: Any, which: str) -> Sequence[Any]:
    """The rows of `predict.cases`. Raises UserError when there is none."""
    from medseg.data.cohort import cases_of

    rows = cases_of(cohort, which)  # type: ignore[arg-type]
    if not rows:
        counts = {name: len(cases_of(cohort, name)) for name in ("train", "val", "test")}  # type: ignore[arg-type]
        raise UserError(
            f"no {which} cases to predict ({', '.join(f'{n} {name}' for name, n in counts.items())})",
            "predict.cases",
            "use all, or set data.split",
        )
    return rows


def open_job(pipeline: Pipeline, models: Sequence[Path], out: Path) -> Job:
    """Loads the model (several: their ensemble) onto the device and works out the memory budget.

    Raises UserError when masks of two models would be mixed, and for models that cannot be averaged.
    """
    from medseg.model.ensemble import facts_of, load_models
    from medseg.predict.case import Predictor
    from medseg.predict.many import Job
    from medseg.predict.memory import budget_bytes
    from medseg.predict.outputs import refuse_other_models, settings_digest

    facts = facts_of(models)
    if out.is_dir() and pipeline.predict.model is not None:
        refuse_other_models(out, str(facts["hash"]))
    device = "cpu"
    if facts["kind"] != "classical":
        import torch

        torch.set_num_threads(pipeline.compute.cores or cores())
        chosen = choose_device(pipeline.compute.device)
        device = chosen.name
        say(f"  device: {chosen.reason}")
    model = load_models(models, device)
    return Job(
        Predictor(model, pipeline.predict),
        out,
        pipeline.predict,
        settings_digest(pipeline.predict, pipeline.data),
        budget_bytes(pipeline.compute),
    )


def drop_outdated(out: Path, model: str) -> None:
    """Removes what an earlier training of this run predicted, so that masks of two models never lie together."""
    from medseg.core.atomic import read_json
    from medseg.predict.outputs import discard

    stale = []
    for path in sorted(out.glob("[!.]*.json")):
        facts = read_json(path)
        if isinstance(facts, dict) and "case" in facts and facts.get("model") != model:
            stale.append(facts["case"])
    for case in stale:
        discard(out, case)
    if stale:
        say(f"  {len(stale)} predictions of an earlier training were removed")


def refuse_all_failed(result: Result) -> None:
    """Raises UserError when there were cases and none came through."""
    if result.failed and not result.done:
        raise UserError(
            f"not one of {len(result.failed)} cases could be predicted",
            "",
            "correct the first and start again",
            [f"case {case}: {reason}" for case, reason in list(result.failed.items())[:8]],
        )
