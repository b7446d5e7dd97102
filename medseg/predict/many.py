"""Many cases, one after the other: the next is read while one is computed and the last is written.

A case is complete when its JSON lies beside its masks; complete cases are not done twice. A case that fails is named
with its reason and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medseg.config import Predict
from medseg.core.case import Case, Image
from medseg.core.errors import Interrupted, UserError
from medseg.core.machine import peak_ram_bytes, watch_memory
from medseg.core.progress import Progress, say
from medseg.core.run import Result
from medseg.core.segmentation import Segmentation
from medseg.jobs.executor import InProcess, Outcome
from medseg.predict import memory, outputs
from medseg.predict.case import Predictor
from medseg.predict.flags import cut_off, input_flags, output_flags
from medseg.predict.values import values_in


@dataclass(frozen=True)
class Task:
    """One case to do: how to open it, and the files that it is made of."""

    case: str
    opener: Callable[[], Case]
    files: tuple[str, ...]


@dataclass
class Job:
    """What a walk over cases needs and what it found out so far.

    settings_hash: equal hash, equal masks. budget: bytes that the process may use.
    """

    predictor: Predictor
    out: Path
    settings: Predict
    settings_hash: str
    budget: int
    window_bytes: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    review: dict[str, str] = field(default_factory=dict)
    done: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    announced: bool = False

    def facts(self, content: str) -> dict[str, str]:
        """What a complete case of this job has in its JSON."""
        return {"model": self.predictor.model.hash, "settings": self.settings_hash, "input": content}


@dataclass
class Read:
    """A case that was read, or found complete (`image` None)."""

    content: str
    image: Image | None
    seconds: float


@dataclass
class Made:
    """A segmented case: the result, what it cost, and the file of its probabilities."""

    seg: Segmentation
    cost: dict[str, Any]
    chances: outputs.ProbabilityFile | None


def run_job(job: Job, tasks: Sequence[Task], left_out: Mapping[str, str] | None = None) -> Result:
    """Predicts every task; returns the counts, which add up to the tasks. Interruption and a full disk stop it."""
    start = time.monotonic()
    _prepare_budget(job)
    _prepare_engine(job, len(tasks))
    with (
        Progress("predict", max(1, len(tasks))) as bar,
        ThreadPoolExecutor(1, "medseg-read") as reader,
        ThreadPoolExecutor(1, "medseg-write") as writer,
    ):
        _walk(job, tasks, bar, reader, writer)
    return _result(job, tasks, left_out or {}, time.monotonic() - start)


def _walk(job: Job, tasks: Sequence[Task], bar: Progress, reader: Executor, writer: Executor) -> None:
    ahead: Future | None = None
    writing: tuple[Task, Future] | None = None
    for number, task in enumerate(tasks):
        bar.set(number, f"case {task.case}")
        found = _caught(job, task, ahead or InProcess().submit(_read, job, task))
        room = number + 1 < len(tasks) and _fits_twice(job, found)
        ahead = reader.submit(_read, job, tasks[number + 1]) if room else None
        made = None if found is None else _computed(job, task, found, bar, number)
        _settle(job, writing)
        writing = None if made is None else (task, writer.submit(_written, job, task, found, made))
        if ahead is None:
            # There was no room for two cases: this one has to leave before the next is read.
            _settle(job, writing)
            writing = found = made = None
    _settle(job, writing)


def _settle(job: Job, writing: tuple[Task, Future] | None) -> None:
    """Waits until a case is written."""
    if writing is not None:
        _caught(job, *writing)


def _caught(job: Job, task: Task, future: Future) -> Any:
    """The result, or None after the reason was noted."""
    error = future.exception()
    return future.result() if error is None else _note(job, task, error)


def _note(job: Job, task: Task, error: BaseException) -> None:
    """Notes why a case failed, and removes masks of an earlier image; what stops all further cases is raised."""
    if isinstance(error, Interrupted) or not isinstance(error, Exception):
        raise error
    if isinstance(error, UserError) and "disk is full" in error.what:
        raise error
    job.failed[task.case] = Outcome(task.case, error=error).reason
    outputs.discard(job.out, task.case)
    say(f"  case {task.case} failed: {job.failed[task.case]}")


def _read(job: Job, task: Task) -> Read:
    from medseg.io.doors import content_hash

    start = time.monotonic()
    content = content_hash([Path(name) for name in task.files])
    if outputs.is_complete(job.out, task.case, job.facts(content)):
        return Read(content, None, 0.0)
    image = task.opener().image()
    return Read(content, image, time.monotonic() - start)


def _computed(job: Job, task: Task, found: Read, bar: Progress, number: int) -> Made | None:
    """Segments one case; None after a failure, and for a case that was complete."""
    image, model = found.image, job.predictor.model
    if image is None:
        _remember(job, task, outputs.read_sidecar(job.out, task.case))
        return None
    chances = None
    start = time.monotonic()
    try:
        formats = outputs.formats_for(image, job.settings)
        _announce(job, image, task)
        if job.settings.probabilities and model.net is not None:
            chances = outputs.ProbabilityFile(job.out, model.plan.out_channels)
        with watch_memory() as trace:
            tick = partial(_advance, bar, number)
            seg = job.predictor.segment(image, tick, chances.sink if chances else None)
        _keep_engine(job)
    except Exception as error:
        if chances is not None:
            chances.close()
        return _note(job, task, error)
    cost = {
        "seconds": round(time.monotonic() - start + found.seconds, 3),
        "seconds_read": round(found.seconds, 3),
        "peak_ram_bytes": trace.peak_bytes,
        "formats": formats,
    }
    return Made(seg, cost, chances)


def _advance(bar: Progress, number: int, done: int, total: int) -> None:
    """Moves the bar by windows, so that the time left is known within a case."""
    bar.set(number + done / max(1, total))


def _written(job: Job, task: Task, found: Read, made: Made) -> None:
    """Writes masks, then the JSON that makes the case complete."""
    image, seg, plan = found.image, made.seg, job.predictor.model.plan
    assert image is not None
    outputs.sidecar(job.out, task.case).unlink(missing_ok=True)
    names, troubles = outputs.write_masks(seg, image, task.case, made.cost["formats"], job.out)
    if made.chances is not None:
        background = plan.background and not plan.overlapping
        formats = made.cost["formats"]
        names += made.chances.write(seg, image, task.case, background, job.out, formats)
        made.chances.close()
    facts = {**made.cost, **_measured(job, image, seg), **job.facts(found.content), "files": names}
    facts["flags"] += troubles
    outputs.write_sidecar(job.out, task.case, facts)
    job.done[task.case] = facts
    _remember(job, task, facts)


def _remember(job: Job, task: Task, facts: Mapping[str, Any]) -> None:
    """Cases with flags are to be looked at, whenever they were predicted."""
    if facts["flags"]:
        job.review[task.case] = "; ".join(facts["flags"])


def _measured(job: Job, image: Image, seg: Segmentation) -> dict[str, Any]:
    """Volumes, flags and notes of a result."""
    model = job.predictor.model
    voxels = voxels_of(seg)
    unknown = cut_off(seg, voxels)
    litre = seg.geometry.voxel_volume_ml
    volumes = {
        name: None if litre is None or name in unknown else round(n * litre, 4) for name, n in voxels.items()
    }
    # A classical method was never trained, so there is nothing that its images could be unlike.
    trained = model.net is not None
    plan = model.plan if trained else model.plan.model_copy(update={"volume_ml": {}})
    flags = input_flags(image, plan) if trained else []
    return {
        "voxels": voxels,
        "volumes_ml": volumes,
        "flags": [*flags, *output_flags(seg, voxels, plan)],
        "system": model.system.slug,
        "engine": job.predictor.engine,
        "engine_facts": None if job.predictor.choice is None else job.predictor.choice.as_json(),
        "windows": seg.provenance["windows"],
        "windows_of_air": seg.provenance.get("windows_of_air", 0),
        "intensity": values_in(seg, image),
        "geometry": seg.geometry.as_json(),
        "classes": [info.as_json() for info in seg.classes],
        "notes": [*image.notes, *seg.provenance["notes"], *unknown.values()],
    }


def voxels_of(seg: Segmentation) -> dict[str, int]:
    """Class -> number of voxels."""
    from medseg.data.reading import value_counts

    if seg.regions is not None:
        return {info.name: int(np.count_nonzero(region)) for info, region in zip(seg.classes, seg.regions)}
    counts = value_counts(seg.labels)
    return {info.name: counts.get(info.index, 0) for info in seg.classes}


# --- engine -------------------------------------------------------------------------------------------------------


def _prepare_engine(job: Job, cases: int) -> None:
    """What came before in this folder is gone on with in the same manner."""
    from medseg.predict.engines.choose import Choice
    from medseg.predict.engines.kept import read_choice

    job.predictor.cases = max(1, cases)
    before = read_choice(job.out, _engine_facts(job))
    job.predictor.before = None if before is None else Choice.from_json(before)


def _keep_engine(job: Job) -> None:
    """Once, after the first case of a network."""
    from medseg.predict.engines.kept import write_choice

    if job.predictor.choice is not None and job.predictor.before is None:
        job.predictor.before = job.predictor.choice
        write_choice(job.out, _engine_facts(job), job.predictor.choice.as_json())


def _engine_facts(job: Job) -> dict[str, str]:
    kind = job.predictor.device.partition(":")[0]
    return {"model": job.predictor.model.hash, "settings": job.settings_hash, "device": kind}


# --- memory -------------------------------------------------------------------------------------------------------


def _prepare_budget(job: Job) -> None:
    model = job.predictor.model
    if model.net is not None:
        job.window_bytes = memory.window_bytes(
            model.net, model.plan.in_channels, model.plan.patch_size, model.plan.out_channels
        )


def _need(job: Job, image: Image) -> memory.Estimate | None:
    model = job.predictor.model
    if model.net is None:
        return None
    predictor = job.predictor
    need = memory.estimate(
        image.geometry,
        image.array.itemsize,
        model.plan,
        predictor.cut,
        job.window_bytes,
        predictor.accumulators,
    )
    need, job.predictor.sums_in_ram = memory.on_gpu(need, job.predictor.device)
    return need


def _announce(job: Job, image: Image, task: Task) -> None:
    """Says once what the cases will take, and refuses a case that does not fit."""
    need = _need(job, image)
    if need is None:
        return
    held = memory.held_bytes() - need.image
    if held + need.total > job.budget and not job.predictor.half_sums:
        # Later cases stay that way: results of one folder are made in one manner.
        job.predictor.half_sums = True
        say("  memory is short: logits are summed in float16")
        need = _need(job, image) or need
    total = held + need.total
    memory.require_fit(total, job.budget, f"case {task.case}", need.describe())
    if not job.announced:
        job.announced = True
        say(
            f"  first case: {image.geometry.describe()}; at most {total / 1e9:.2f} GB of {job.budget / 1e9:.2f} GB"
            f" ({need.describe()})"
        )


def _fits_twice(job: Job, found: Read | None) -> bool:
    """Whether the next case may be read while this one is computed and the last one is written."""
    if found is None or found.image is None:
        return True
    need = _need(job, found.image)
    if need is None:
        return 4 * found.image.array.nbytes + memory.held_bytes() < job.budget
    return memory.held_bytes() + need.total + need.image + need.labels < job.budget


def _result(job: Job, tasks: Sequence[Task], left_out: Mapping[str, str], seconds: float) -> Result:
    fresh = len(job.done)
    done = len(tasks) - len(job.failed)
    each = f", {sum(f['seconds'] for f in job.done.values()) / fresh:.1f} s each" if fresh else ""
    parts = [f"{done} of {len(tasks)} cases predicted{each}"]
    if done > fresh:
        parts.append(f"{done - fresh} done before")
    if job.failed:
        parts.append(f"{len(job.failed)} failed")
    if job.review:
        parts.append(f"{len(job.review)} to look at")
    if job.predictor.engine:
        parts.append(job.predictor.engine)
    details = {
        "new": fresh,
        "kept": done - fresh,
        "engine": job.predictor.engine,
        "model": job.predictor.model.hash,
        "seconds": round(seconds, 2),
        "seconds_per_case": round(sum(f["seconds"] for f in job.done.values()) / max(1, fresh), 3),
        "peak_ram_bytes": peak_ram_bytes(),
    }
    return Result("predict", ", ".join(parts), done, job.failed, dict(left_out), job.review, details)
