"""The step "predict": masks of the chosen cases, each on its own grid, with what they cost and what is odd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.config import Pipeline
from medseg.core.errors import UserError
from medseg.core.machine import choose_device, cores
from medseg.core.progress import say
from medseg.core.run import Result, RunFolder
from medseg.predict.spread import Order

if TYPE_CHECKING:
    from medseg.ingest.previous import Mask
    from medseg.predict.job import Job, Task

KEYS = ("data", "predict")
READS = ("cases", "sources", "model")
WRITES = ("predictions",)


def inputs(pipeline: Pipeline, folder: RunFolder) -> str:
    """The hash of the model, wherever it lies, and of the prompts that its system takes."""
    from medseg.model.facts import load_facts

    facts = load_facts(model_folder(pipeline, folder))
    return str(facts["hash"]) + _prompts(pipeline, folder, facts) + ("masks" if _held_out(pipeline) else "")


def _held_out(pipeline: Pipeline) -> dict[str, Mask]:
    """Masks of a cascade's earlier stage by models that have not seen their case, for scores that do not flatter.

    A model that was given says nothing of the run that its earlier stage was made in.
    """
    if pipeline.predict.model is not None or pipeline.ingest.previous is None:
        return {}
    from medseg.ingest.previous import out_of_fold_masks

    return out_of_fold_masks(pipeline.ingest.previous)


def _prompts(pipeline: Pipeline, folder: RunFolder, facts: Mapping[str, Any]) -> str:
    """What the prompts of the cases are made of; "" for systems that take none."""
    if facts["kind"] != "classical":
        return ""
    from medseg.data.cohort import load_cohort
    from medseg.predict.prompts import find_hints, prompts_digest
    from medseg.zoo.build import find

    card = find(facts["system"]["name"])
    if "prompt" not in (*card.needs, *card.takes):
        return ""
    setting = pipeline.predict.prompt
    return prompts_digest([find_hints(row, pipeline.data, setting, ()) for row in load_cohort(folder).rows])


def model_folder(pipeline: Pipeline, folder: RunFolder) -> Path:
    """The model that predicts: the one that is given, else the run's own."""
    return Path(pipeline.predict.model).expanduser() if pipeline.predict.model else folder.model


def run(pipeline: Pipeline, folder: RunFolder) -> Result:
    """Predicts the cases of `predict.cases`; complete ones are kept. Raises UserError when no case came through."""
    from medseg.data.cohort import load_cohort
    from medseg.predict.channels import require_channels
    from medseg.predict.job import task_of
    from medseg.predict.manifest import write_manifest

    cohort = load_cohort(folder)
    rows = choose_rows(cohort, which_cases(pipeline, folder))
    models = [model_folder(pipeline, folder)]
    job = open_job(pipeline, models, folder.predictions)
    if pipeline.predict.model is not None:
        require_channels(job.predictor.model.plan, cohort.channels, bool(pipeline.data.channels))
    if not folder.is_fold:
        job.journal, job.system = folder.journal, folder.path.name if folder.parent else ""
    if pipeline.predict.model is None:
        drop_outdated(folder.predictions, job.predictor.model.hash)
    tasks = [task_of(row, pipeline.data, pipeline.predict.prompt, cohort.classes) for row in rows]
    folder.predictions.mkdir(parents=True, exist_ok=True)
    result = run_cases(
        [job], tasks, Order(pipeline, (tuple(models),), (folder.predictions,), cohort.classes)
    )[0]
    write_manifest(folder.predictions, result.failed, dict(cohort.left_out))
    refuse_all_failed(result)
    return result


def run_cases(
    jobs: Sequence[Job], tasks: Sequence[Task], order: Order, left_out: Mapping[str, str] | None = None
) -> list[Result]:
    """Predicts the cases in this process, or by the workers that `compute.cluster` names; removes what an earlier
    call that was killed left unfinished."""
    from medseg.core.atomic import remove_leftovers
    from medseg.predict.many import run_jobs
    from medseg.predict.spread import run_spread

    for out in order.outs:
        if count := remove_leftovers(out):
            say(f"  {count} unfinished files of a call that was killed were removed")
    if order.pipeline.compute.cluster.kind == "none" or not all(task.row for task in tasks):
        return run_jobs(jobs, tasks, left_out)
    return run_spread(jobs, tasks, order, left_out)


def which_cases(pipeline: Pipeline, folder: RunFolder) -> str:
    """`auto`: the held-out cases where some were trained on; all of them where nothing was learnt from this cohort."""
    from medseg.model.facts import load_facts

    if pipeline.predict.cases != "auto":
        return pipeline.predict.cases
    if pipeline.predict.model is not None:
        return "all"
    facts = load_facts(folder.model)
    # A classical method that was fitted or searched says so under `training`.
    return "holdout" if facts["kind"] != "classical" or facts.get("training") else "all"


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
    from medseg.predict.job import Job
    from medseg.predict.memory import budget_bytes
    from medseg.predict.mixed import predictor_of
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
    masks = _held_out(pipeline)
    return Job(
        predictor_of(model, pipeline.predict),
        out,
        pipeline.predict,
        settings_digest(pipeline.predict, pipeline.data) + ("-out-of-fold" if masks else ""),
        budget_bytes(pipeline.compute),
        masks=masks,
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
