"""Many cases, one after the other: the next is read while one is computed and the last is written.

A case is complete when its JSON lies beside its masks; complete cases are not done twice. A case that fails is named
with its reason and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

from medseg.core.case import Image
from medseg.core.machine import watch_memory
from medseg.core.progress import Progress, say
from medseg.core.prompt import Prompt
from medseg.core.run import Result
from medseg.core.segmentation import Segmentation
from medseg.jobs.executor import InProcess
from medseg.predict import memory, outputs
from medseg.predict.as_made import guided_filter
from medseg.predict.case import Predictor, Tick
from medseg.predict.guided_filter import working_bytes
from medseg.predict.job import Job, Task
from medseg.predict.measured import measured
from medseg.predict.mixed import MixedPredictor, each, together
from medseg.predict.prompts import takes_prompts
from medseg.predict.retreat import with_less
from medseg.predict.shared import SharedPreparation

__all__ = ["Job", "Task", "prepare_engine", "run_job", "run_jobs"]


@dataclass
class Read:
    """A case that was read; `image` is None where it is complete in every job. contents: hash of the input, a job."""

    contents: tuple[str, ...]
    waiting: frozenset[int]
    image: Image | None
    seconds: float
    prompt: Prompt | None = None


@dataclass
class Made:
    """A segmented case: the image, the result, what it cost, and the file of its probabilities."""

    image: Image
    seg: Segmentation
    cost: dict[str, Any]
    chances: outputs.ProbabilityFile | None


def run_job(job: Job, tasks: Sequence[Task], left_out: Mapping[str, str] | None = None) -> Result:
    """Predicts every task with one model; see `run_jobs`."""
    return run_jobs([job], tasks, left_out)[0]


def run_jobs(
    jobs: Sequence[Job], tasks: Sequence[Task], left_out: Mapping[str, str] | None = None
) -> list[Result]:
    """Predicts every task with every job's model; a case is read once, and prepared once for plans that agree.

    Returns the counts of each job, which add up to the tasks. Interruption and a full disk stop it.
    """
    start = time.monotonic()
    shared = SharedPreparation() if len(jobs) > 1 else None
    for job in jobs:
        _prepare_budget(job)
        prepare_engine(job, len(tasks))
        job.predictor.prepare = shared
        job.begin([task.case for task in tasks])
    with (
        Progress("predict", max(1, len(tasks))) as bar,
        ThreadPoolExecutor(1, "medseg-read") as reader,
        ThreadPoolExecutor(1, "medseg-write") as writer,
    ):
        _walk(jobs, tasks, bar, reader, writer)
    seconds = time.monotonic() - start
    return [job.result(len(tasks), left_out or {}, seconds) for job in jobs]


def _walk(
    jobs: Sequence[Job], tasks: Sequence[Task], bar: Progress, reader: Executor, writer: Executor
) -> None:
    ahead: Future | None = None
    writing: tuple[Job, Task, Future] | None = None
    for number, task in enumerate(tasks):
        bar.set(number, f"case {task.case}")
        found = _caught(jobs, task, ahead or InProcess().submit(_read, jobs, task))
        room = number + 1 < len(tasks) and all(_fits_twice(job, found) for job in jobs)
        ahead = reader.submit(_read, jobs, tasks[number + 1]) if room else None
        for place, job in enumerate(jobs if found is not None else ()):
            tick = partial(_advance, bar, number + place / len(jobs), len(jobs))
            made = _computed(job, place, task, found, tick)
            _settle(writing)
            content = found.contents[place]
            writing = None if made is None else (job, task, writer.submit(_written, job, task, content, made))
            made = None
        if ahead is None:
            # There was no room for two cases: this one has to leave before the next is read.
            _settle(writing)
            writing = found = None
        for job in jobs:
            if job.predictor.prepare is not None:
                job.predictor.prepare.forget()
    _settle(writing)


def _settle(writing: tuple[Job, Task, Future] | None) -> None:
    """Waits until a case is written."""
    if writing is not None:
        job, task, future = writing
        _caught([job], task, future)


def _caught(jobs: Sequence[Job], task: Task, future: Future) -> Any:
    """The result, or None after the reason was noted."""
    error = future.exception()
    if error is None:
        return future.result()
    for job in jobs:
        job.fail(task.case, error)
    return None


def _read(jobs: Sequence[Job], task: Task) -> Read:
    start = time.monotonic()
    contents = _contents(jobs, task)
    waiting = frozenset(
        place
        for place, (job, content) in enumerate(zip(jobs, contents))
        if not outputs.is_complete(job.out, task.case, job.facts(content))
    )
    if not waiting:
        return Read(contents, waiting, None, 0.0)
    image = task.opener().image()
    prompted = any(takes_prompts(jobs[place].predictor.model) for place in waiting)
    prompt = task.hints.read(image) if prompted and task.hints else None
    return Read(contents, waiting, image, time.monotonic() - start, prompt)


def _contents(jobs: Sequence[Job], task: Task) -> tuple[str, ...]:
    """Hash of the input for every job: the image's files, and for models that take prompts those of the prompt."""
    from medseg.io.doors import channels_hash

    known: dict[tuple[tuple[str, ...], ...], str] = {}
    names = []
    for job in jobs:
        hints = task.hints if takes_prompts(job.predictor.model) else None
        channels = task.row.images if task.row else (task.files,)
        if hints and hints.files:
            more = tuple(hints.files)
            channels = (*channels, more) if len(channels) > 1 else ((*channels[0], *more),)
        names.append(channels)
        if channels not in known:
            known[channels] = channels_hash(channels)
    return tuple(known[one] for one in names)


def _computed(job: Job, place: int, task: Task, found: Read, tick: Tick) -> Made | None:
    """Segments one case; None after a failure, and for a case that was complete. place: of the job among the jobs."""
    image, model = found.image, job.predictor.model
    if image is None or place not in found.waiting:
        job.keep(task.case, outputs.read_sidecar(job.out, task.case), fresh=False)
        return None
    chances = None
    start = time.monotonic()
    try:
        formats = outputs.formats_for(image, job.settings)
        if job.settings.probabilities and model.net is not None:
            chances = outputs.ProbabilityFile(job.out, model.plan.out_channels)
        sink = chances.sink if chances else None

        def attempt() -> Segmentation:
            _announce(job, image, task)
            job.hand_mask(found.contents[place])
            return job.predictor.segment(image, tick, sink, found.prompt)

        with watch_memory() as trace:
            seg = with_less(job.predictor, attempt, f"case {task.case}")
        _keep_engine(job)
    except Exception as error:
        if chances is not None:
            chances.close()
        job.fail(task.case, error)
        return None
    cost = {
        "seconds": round(time.monotonic() - start + found.seconds, 3),
        "seconds_read": round(found.seconds, 3),
        "peak_ram_bytes": trace.peak_bytes,
        "formats": formats,
    }
    return Made(image, seg, cost, chances)


def _advance(bar: Progress, begun: float, jobs: int, done: int, total: int) -> None:
    """Moves the bar by windows, so that the time left is known within a case."""
    bar.set(begun + done / max(1, total) / jobs)


def _written(job: Job, task: Task, content: str, made: Made) -> None:
    """Writes masks in place of all earlier ones of the case, then the JSON that makes it complete."""
    image, seg, plan = made.image, made.seg, job.predictor.model.plan
    outputs.discard(job.out, task.case)
    names, troubles = outputs.write_masks(seg, image, task.case, made.cost["formats"], job.out)
    if made.chances is not None:
        background = plan.background and not plan.overlapping
        formats = made.cost["formats"]
        names += made.chances.write(seg, image, task.case, background, job.out, formats)
        made.chances.close()
    facts = {**made.cost, **measured(job.predictor, image, seg), **job.facts(content), "files": names}
    facts["flags"] += troubles
    outputs.write_sidecar(job.out, task.case, facts)
    job.keep(task.case, facts, fresh=True)


# --- engine -------------------------------------------------------------------------------------------------------


def prepare_engine(job: Job, cases: int) -> None:
    """What came before in this folder is gone on with in the same manner."""
    from medseg.predict.engines.choose import Choice
    from medseg.predict.engines.kept import read_choice

    job.predictor.cases = max(1, cases, job.expected)
    before = read_choice(job.out, job.engine_facts())
    job.predictor.before = None if before is None else Choice.from_json(before)


def _keep_engine(job: Job) -> None:
    """Once, after the first case of a network."""
    from medseg.predict.engines.kept import write_choice

    if job.predictor.choice is not None and job.predictor.before is None:
        job.predictor.before = job.predictor.choice
        write_choice(job.out, job.engine_facts(), job.predictor.choice.as_json())


# --- memory -------------------------------------------------------------------------------------------------------


def _prepare_budget(job: Job) -> None:
    predictor = job.predictor
    if predictor.model.net is not None and not job.window_bytes:
        parts = predictor.parts or (predictor,)
        for part in parts:
            least = 4 * prod(part.cut.patch) * part.model.plan.in_channels
            size = "x".join(map(str, part.cut.patch))
            memory.require_fit(least, job.budget, "the model", f"one window of {size} voxels")
        job.window_bytes = max(map(_window_bytes, parts)) + memory.engine_bytes(job.settings.engine)
        earlier = [one for part in parts if part.earlier for one in part.earlier.parts or (part.earlier,)]
        drawing = [_window_bytes(one) for one in earlier if one.model.net is not None]
        job.earlier_window_bytes = max(drawing, default=0)


def _window_bytes(predictor: Predictor) -> int:
    plan, window = predictor.model.plan, predictor.cut.patch
    alone = memory.window_bytes(predictor.net, plan.in_channels, window, plan.out_channels)
    if not predictor.answers_twice:
        return alone
    return memory.with_answers(alone, predictor.summed or plan.out_channels, window)


def _need(job: Job, image: Image) -> memory.Estimate | None:
    """What a case takes; of a cascade what its hungrier stage takes, since one follows the other."""
    if job.predictor.model.net is None:
        return None
    return _in_step(job.predictor, image, lambda one: _need_with_earlier(job, one, image))


def _in_step(
    predictor: Predictor, image: Image, need_of: Callable[[Predictor], memory.Estimate]
) -> memory.Estimate:
    """What one network takes, or all parts of a mean that walk in step."""
    if not isinstance(predictor, MixedPredictor):
        return need_of(predictor)
    predictor.agree(image.geometry)
    return together([need_of(part) for part in predictor.parts], predictor, image.geometry)


def _need_with_earlier(job: Job, predictor: Predictor, image: Image) -> memory.Estimate:
    need = _need_of(predictor, image, job.window_bytes)
    earlier = predictor.earlier
    if earlier is None:
        return need
    need = replace(need, labels=need.labels + prod(image.geometry.shape))  # the mask that was drawn
    if earlier.model.net is None:
        return need
    first = _in_step(earlier, image, lambda one: _need_of(one, image, job.earlier_window_bytes))
    return max(need, first, key=lambda one: one.total)


def _need_of(predictor: Predictor, image: Image, window_bytes: int) -> memory.Estimate:
    model = predictor.model
    need = memory.estimate(
        image.geometry,
        image.array.itemsize,
        model.plan,
        predictor.cut,
        window_bytes,
        predictor.accumulators,
        predictor.summed,
    )
    filtered = guided_filter(predictor.settings, model.plan)
    if filtered is not None:
        grid = image.geometry
        need = replace(need, borders=working_bytes(grid.shape, grid.spacing, filtered, len(model.classes)))
    need, predictor.sums_in_ram = memory.on_gpu(need, predictor.device, predictor.only_in_ram)
    return need


def _announce(job: Job, image: Image, task: Task) -> None:
    """Says once what the cases will take, and refuses a case that does not fit."""
    need = _need(job, image)
    if need is None:
        return
    held = memory.held_bytes() - need.image
    if held + need.total > job.budget and not job.predictor.half_sums:
        # Later cases stay that way: results of one folder are made in one manner.
        for one in each(job.predictor):
            one.half_sums = True
        say("  memory is short: logits are summed in float16")
        need = _need(job, image) or need
    total = held + need.total
    grid = memory.finer(image.geometry, job.predictor.model.plan)
    memory.require_fit(total, job.budget, f"case {task.case}", need.describe(), grid)
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
