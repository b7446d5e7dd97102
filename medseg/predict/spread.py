"""A cohort's cases over workers: other processes, batch jobs, pods.

The coordinator sends rows of cases and gets back what became of them; a worker reads, segments and writes one case at
a time, whole or not at all, and loads the models once. Journal and manifest are the coordinator's business alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from medseg.config import Pipeline
from medseg.core.atomic import remove_leftovers
from medseg.core.errors import UserError
from medseg.core.machine import cores
from medseg.core.progress import be_quiet
from medseg.core.run import Result
from medseg.core.segmentation import ClassInfo
from medseg.jobs.executor import map_cases, open_workers, worker_count
from medseg.predict.job import Job, Task, task_of

HERE = ("processes", "dask")
"""Kinds of workers that share this computer's cores and memory."""


@dataclass(frozen=True)
class Order:
    """What every worker has to know: the journey, and for each job the model folders (several: their mean) and where
    its masks go. classes: those that prompts name."""

    pipeline: Pipeline
    models: tuple[tuple[Path, ...], ...]
    outs: tuple[Path, ...]
    classes: tuple[ClassInfo, ...] = ()

    def as_json(self, budget: int, cases: int = 0) -> dict[str, Any]:
        """Plain values; on this computer the workers share its cores and the budget in bytes. cases: of all."""
        compute = self.pipeline.compute
        count = worker_count(compute.cluster)
        if compute.cluster.kind in HERE and compute.cluster.address is None:
            shared = {"cores": max(1, (compute.cores or cores()) // count), "ram": budget // count}
            compute = compute.model_copy(update=shared)
        pipeline = self.pipeline.model_copy(update={"compute": compute})
        return {
            "pipeline": pipeline.model_dump(mode="json"),
            "models": [[str(one.absolute()) for one in models] for models in self.models],
            "outs": [str(out.absolute()) for out in self.outs],
            "classes": [info.as_json() for info in self.classes],
            "cases": cases // count,
        }


def run_spread(
    jobs: Sequence[Job], tasks: Sequence[Task], order: Order, left_out: Mapping[str, str] | None = None
) -> list[Result]:
    """As `run_jobs`, by the workers of `compute.cluster`. Jobs are only kept books of here.

    Cases that a worker was lost over are done again by another; what every worker is lost over fails. Raises UserError
    when the workers cannot be had, and what stops every case.
    """
    from medseg.predict.many import prepare_engine

    start = time.monotonic()
    for job in jobs:
        prepare_engine(job, len(tasks))
        job.begin([task.case for task in tasks])
    facts = order.as_json(jobs[0].budget, max(len(tasks), jobs[0].expected))
    threads = str(facts["pipeline"]["compute"]["cores"] or cores())
    asked = [{"order": facts, "row": task.row.as_json()} for task in tasks if task.row is not None]
    assert len(asked) == len(tasks), "a case without a row cannot be sent"
    with open_workers(order.pipeline.compute.cluster, {"OMP_NUM_THREADS": threads}) as pool:
        first = _first(jobs, asked, order, pool)
        _send(jobs, asked[first:], order, pool)
    for job in jobs:
        remove_leftovers(job.out)  # of workers that were killed while they wrote
    seconds = time.monotonic() - start
    return [job.result(len(tasks), left_out or {}, seconds) for job in jobs]


def _first(jobs: Sequence[Job], asked: Sequence[Mapping[str, Any]], order: Order, pool: Executor) -> int:
    """Sends cases one by one until each network has its engine, so that all masks of a folder are made in one manner.

    Returns how many were sent.
    """
    count = 0
    for question in asked:
        if all(_has_engine(job) for job in jobs):
            break
        _send(jobs, [question], order, pool)
        count += 1
    return count


def _has_engine(job: Job) -> bool:
    """Whether nothing is left to choose: the engine is known, or the model chooses none by speed."""
    from medseg.predict.engines.kept import read_choice

    predictor = job.predictor
    if predictor.model.net is None or predictor.parts:
        return True
    return read_choice(job.out, job.engine_facts()) is not None


def _send(jobs: Sequence[Job], asked: Sequence[Mapping[str, Any]], order: Order, pool: Executor) -> None:
    count = worker_count(order.pipeline.compute.cluster)
    outcomes = map_cases(
        predict_row, asked, "predict", workers=count, name=lambda one: f"case {one['row']['case']}", pool=pool
    )
    for outcome in outcomes:
        case = outcome.item["row"]["case"]
        if outcome.error is not None or outcome.value is None:
            for job in jobs:
                job.fail(case, outcome.error or RuntimeError("no answer"))
            continue
        if "stop" in outcome.value:
            raise UserError(**outcome.value["stop"])
        for job, found in zip(jobs, outcome.value["jobs"], strict=True):
            if found["failed"]:
                job.fail_because(case, found["failed"])
                continue
            job.predictor.engine = found["facts"].get("engine") or job.predictor.engine
            job.keep(case, found["facts"], found["fresh"])


# --- in a worker --------------------------------------------------------------------------------------------------


def predict_row(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Predicts one case with every model of the order; what stops all cases comes back under "stop"."""
    be_quiet()
    try:
        return {"jobs": _predicted(asked["order"], asked["row"])}
    except UserError as err:
        return {"stop": err.as_json()}


def _predicted(order: Mapping[str, Any], facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    from medseg.data.rows import CaseRow
    from medseg.predict.many import run_jobs
    from medseg.predict.outputs import read_sidecar

    pipeline, jobs = _opened(json.dumps(order))
    row = CaseRow.from_json(facts)
    for job in jobs:
        job.done, job.failed, job.review = {}, {}, {}
    classes = [ClassInfo.from_json(info) for info in order["classes"]]
    run_jobs(jobs, [task_of(row, pipeline.data, pipeline.predict.prompt, classes)])
    return [
        {
            "failed": job.failed.get(row.case, ""),
            "fresh": row.case in job.done,
            "facts": job.done.get(row.case) or read_sidecar(job.out, row.case),
        }
        for job in jobs
    ]


@lru_cache(maxsize=1)
def _opened(order: str) -> tuple[Pipeline, list[Job]]:
    """The pipeline and the loaded models of an order; a worker does many cases of the same one."""
    from medseg.predict.stage import open_job

    facts = json.loads(order)
    pipeline = Pipeline.model_validate(facts["pipeline"])
    jobs = []
    for models, out in zip(facts["models"], facts["outs"], strict=True):
        jobs.append(open_job(pipeline, [Path(one) for one in models], Path(out)))
        jobs[-1].expected = facts["cases"]
    return pipeline, jobs
