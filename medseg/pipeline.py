"""Walks the road: check -> plan -> ingest -> train -> predict -> score -> report.

A step is a module `medseg.<room>.stage` with KEYS (pipeline keys it depends on), READS and WRITES (names of
`RunFolder` properties) and `run(pipeline, folder) -> Result`. A step whose stamp (settings + content of what it reads
+ version) stands in steps.json is not done again.
"""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import medseg
from medseg import cross_validation, mean_of_two, two_stages
from medseg.config import Pipeline, System
from medseg.config_file import load_pipeline, placed, save_pipeline, with_place
from medseg.config_plan import load_plan
from medseg.core.at_work import at_work
from medseg.core.atomic import full_disk_named, remove_leftovers
from medseg.core.errors import Interrupted, UserError
from medseg.core.machine import cores, watch_memory
from medseg.core.progress import duration, keep_log, say
from medseg.core.run import Result, RunFolder
from medseg.data.cohort import resolved
from medseg.data.named import require_class_names
from medseg.jobs import journal
from medseg.jobs.lock import one_at_a_time
from medseg.remember import Memory
from medseg.train.beforehand import require_start

ROAD = ("check", "plan", "ingest", "train", "predict", "score", "report")
ONCE = ("check", "report")
"""Steps that a comparison of several systems takes once, not once a system."""

JOINED = {"join": "medseg.score.folds", "choose": "medseg.score.choose"}
"""Steps of a cross-validation that are no verbs of their own; they go with `score`."""

__all__ = ["ROAD", "Walk", "build", "load_pipeline", "run"]


@dataclass
class Walk:
    """What a walk along the road came to."""

    folder: RunFolder
    pipeline: Pipeline
    results: dict[tuple[str, str], Result] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_ram_bytes: int = 0
    mlflow_run_id: str | None = None
    total_seconds: float = 0.0


def run(
    pipeline: Pipeline,
    out: Path,
    *,
    steps: Sequence[str] = ROAD,
    force: Iterable[str] = (),
) -> Walk:
    """Walks `steps` of the road in the run folder `out`; finished steps with unchanged inputs are skipped.

    Raises UserError for bad input and Interrupted when the run was asked to stop; both leave a folder that the same
    call continues.
    """
    with placed(pipeline), full_disk_named(out):
        return _run(pipeline, out, steps, force)


def _run(pipeline: Pipeline, out: Path, steps: Sequence[str], force: Iterable[str]) -> Walk:
    check_names(pipeline)
    mean_of_two.refuse_alone(pipeline)
    two_stages.refuse_alone(pipeline)
    if pipeline.train.several:
        cross_validation.refuse_contradictions(pipeline)
    # What the data set says of its classes, ignore value and channels counts in every room.
    pipeline = pipeline.model_copy(update={"data": resolved(pipeline.data)})
    check_classes(pipeline)
    if "train" in steps:
        require_start(pipeline)
    walk = Walk(RunFolder(out), pipeline)
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    keep_log(walk.folder.log)
    _use_cores(pipeline)
    save_pipeline(pipeline, walk.folder.pipeline_file, medseg.__version__)
    start, status = time.monotonic(), "FAILED"
    memory = None
    if pipeline.track.enabled and set(steps) & {"train", "predict", "score"}:
        with _shared(walk, walk.folder):
            memory = Memory.open(pipeline, walk.folder)
    try:
        with at_work(out):
            for leg in _journey(walk, steps):
                with _shared(walk, leg.folder):
                    _do(
                        leg,
                        walk,
                        memory,
                        again=leg.step in force or (leg.step in JOINED and "score" in force),
                    )
                if leg.step == "plan":
                    _look_ahead(leg, steps)
        status = "FINISHED"
    except (Interrupted, KeyboardInterrupt):
        status = "KILLED"
        raise
    finally:
        walk.total_seconds = time.monotonic() - start
        if memory is not None:
            memory.close(status)
            walk.mlflow_run_id = memory.run_id
        keep_log(None)
    return walk


def check_names(pipeline: Pipeline) -> None:
    """Asks each room whether it knows the names the pipeline uses; all faults at once."""
    from medseg.losses.table import find_loss
    from medseg.metrics.table import find_metric
    from medseg.zoo.build import find

    asked: list[tuple[str, Callable[[str], Any], str]] = []
    for number, system in enumerate(pipeline.systems):
        key = f"system.{number}.name" if isinstance(pipeline.system, list) else "system.name"
        asked.append((key, find, system.name))
    asked.append(("train.loss", find_loss, _loss_name(pipeline)))
    asked += [(f"score.metrics.{k}", find_metric, name) for k, name in enumerate(pipeline.score.metrics)]
    if pipeline.score.reference != "label":
        asked.append(("score.reference", find, pipeline.score.reference))
    faults = []
    for key, ask, name in asked:
        try:
            ask(name)
        except UserError as err:
            err.where = with_place(pipeline, key)
            faults.append(str(err).replace("\n", " "))
    if faults:
        raise UserError(
            f"names {len(faults)} thing{'s' * (len(faults) > 1)} that medseg does not know",
            f"pipeline {pipeline.name}",
            faults=faults,
        )


def check_classes(pipeline: Pipeline) -> None:
    """Refuses settings that name no class, where the classes are known before anything is read."""
    from medseg.model.facts import load_facts

    if pipeline.predict.model is not None:
        facts = load_facts(Path(pipeline.predict.model))
        require_class_names(pipeline, [str(entry["name"]) for entry in facts["classes"]])
    elif pipeline.data.classes:
        require_class_names(pipeline, list(pipeline.data.classes))


def _look_ahead(leg: Leg, steps: Sequence[str]) -> None:
    """What the plan makes known is asked before cases are prepared: names of classes and weights, a start that fits."""
    plan = load_plan(leg.folder.plan)
    require_class_names(leg.pipeline, [str(entry["name"]) for entry in plan.classes])
    if "train" in steps:
        from medseg.train.beforehand import require_trainable

        require_trainable(leg.pipeline, leg.folder)


def _loss_name(pipeline: Pipeline) -> str:
    loss = pipeline.train.loss
    return str(loss.get("name", "")) if isinstance(loss, dict) else loss


@dataclass(frozen=True)
class Leg:
    """One step with the settings and the folder it is taken with. module: where the step is written."""

    step: str
    pipeline: Pipeline
    folder: RunFolder
    label: str
    module: str

    @property
    def stage(self) -> ModuleType:
        return importlib.import_module(self.module)


def _leg(step: str, pipeline: Pipeline, folder: RunFolder, label: str | None = None) -> Leg:
    name = (folder.path.name if folder.parent else "") if label is None else label
    return Leg(step, pipeline, folder, name, JOINED.get(step, f"medseg.{step}.stage"))


def _journey(walk: Walk, steps: Sequence[str]) -> Iterator[Leg]:
    """The legs in their order; those of a cross-validation are only known once the data has been checked."""
    if not walk.pipeline.train.several:
        for step in steps:
            yield from (_leg(step, one, folder) for one, folder in _places(walk, step))
        return
    if "check" in steps:
        yield from (_leg("check", one, folder) for one, folder in _places(walk, "check"))
    for systems in two_stages.in_turns(walk.pipeline) if set(steps) - set(ONCE) else []:
        if two_stages.must_wait(walk.pipeline, systems, walk.folder):
            return
        yield from _crossed(walk, systems, steps)
    if "score" in steps and len(walk.pipeline.systems) > 1:
        yield from _means(walk)
        yield _leg("choose", walk.pipeline, walk.folder)
    if "report" in steps:
        yield _leg("report", walk.pipeline, walk.folder)


def _crossed(walk: Walk, systems: Sequence[System], steps: Sequence[str]) -> Iterator[Leg]:
    """The cross-validation of systems that wait for nothing: what their trainings share, then each training."""
    for step in [step for step in ("plan", "ingest") if step in steps]:
        for one, folder in _places(walk, step, systems):
            cross_validation.prepare(folder)
            yield _leg(step, cross_validation.plain(one), folder.pooled)
    for one, folder in _places(walk, "train", systems):
        yield from _trainings(one, folder, steps)
        if "score" in steps:
            yield from _joining(one, folder)


def _trainings(pipeline: Pipeline, base: RunFolder, steps: Sequence[str]) -> Iterator[Leg]:
    """Each training with its predictions and scores, before the next one begins: what is finished stays finished."""
    own = [step for step in cross_validation.MEMBER_STEPS if step in steps]
    for member in cross_validation.members_of(pipeline, base) if own else []:
        with one_at_a_time(member.folder.path / ".lock", member.label):
            one = cross_validation.begin(pipeline, member)
            for step in own:
                yield _leg(step, one, member.folder, member.label)
            if "score" in own:
                cross_validation.finish(pipeline, member)


def _means(walk: Walk) -> Iterator[Leg]:
    """The mean of each two systems, predicted and scored like a system of its own (`score.pairs`)."""
    for pair, members in mean_of_two.found_pairs(walk.pipeline, walk.folder):
        for member in members:
            with one_at_a_time(member.folder.path / ".lock", member.label):
                one = mean_of_two.begin(pair, member)
                for step in ("predict", "score"):
                    yield _leg(step, one, member.folder, member.label)
                cross_validation.finish(pair.pipeline, member)
        yield from _joining(pair.pipeline, pair.base)


def _joining(pipeline: Pipeline, base: RunFolder) -> Iterator[Leg]:
    """All finished trainings become one table and one model, which predicts the cases that were set aside."""
    from medseg.zoo.build import find

    if find(pipeline.only_system.name).kind == "classical":
        yield _leg("train", cross_validation.plain(pipeline), base.pooled)
    yield _leg("join", pipeline, base)
    if cross_validation.is_tested(base):
        apart = pipeline.predict.model_copy(update={"cases": "test"})
        pipeline = pipeline.model_copy(update={"predict": apart})
        yield _leg("predict", pipeline, base)
        yield _leg("score", pipeline, base)


def _places(walk: Walk, step: str, some: Sequence[System] | None = None) -> list[tuple[Pipeline, RunFolder]]:
    """The settings and folder(s) a step is taken with: one, or one a system of a comparison, or of `some` of them."""
    systems = walk.pipeline.systems
    if len(systems) == 1:
        return [(walk.pipeline.for_system(systems[0]), walk.folder)]
    if step in ONCE:
        return [(walk.pipeline, walk.folder)]
    return [
        (two_stages.settings_of(walk.pipeline, s, walk.folder), walk.folder.system(s.slug))
        for s in (systems if some is None else some)
    ]


def _shared(walk: Walk, folder: RunFolder) -> AbstractContextManager[None]:
    """Jobs that train folds of one run side by side take turns in what they share."""
    if not walk.pipeline.train.several or folder.is_fold:
        return nullcontext()
    return one_at_a_time(walk.folder.path / ".lock", "this run")


def _do(leg: Leg, walk: Walk, memory: Memory | None, again: bool) -> None:
    step, pipeline, folder, label, stage = leg.step, leg.pipeline, leg.folder, leg.label, leg.stage
    before = folder.steps_done().get(step, {})
    mark = stamp(stage, pipeline, folder)
    if before.get("stamp") == mark and not again and _all_there(stage, folder):
        say(f"{step:<8} {label} unchanged, not done again: {before.get('line', '')}".replace("  un", " un"))
        walk.results[step, label] = Result(step, **before["result"])
        return
    folder.path.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with watch_memory() as trace:
        if memory is not None:
            memory.begin(step, folder)
        result = stage.run(pipeline, folder)
    seconds = time.monotonic() - start
    walk.results[step, label] = result
    walk.seconds[step] = walk.seconds.get(step, 0.0) + seconds
    walk.peak_ram_bytes = max(walk.peak_ram_bytes, trace.peak_bytes)
    facts = {
        "done": result.done,
        "failed": result.failed,
        "skipped": result.skipped,
        "review": result.review,
        "details": result.details,
    }
    folder.mark_done(step, {
        "stamp": stamp(stage, pipeline, folder) if set(stage.READS) & set(stage.WRITES) else mark,
        "seconds": round(seconds, 2), "peak_ram_bytes": trace.peak_bytes, "mean_ram_bytes": trace.mean_bytes,
        "line": result.line, "result": {"line": result.line, **facts},
    })  # fmt: skip
    journal.record(folder.journal, label, result)
    say(f"{step:<8} {label + ' ' if label else ''}{result.line} ({duration(seconds)})")
    if memory is not None:
        memory.end(step, folder, result, seconds, trace)


def stamp(stage: ModuleType, pipeline: Pipeline, folder: RunFolder) -> str:
    """Equal stamp, equal output: settings, content of what is read, version."""
    facts = [medseg.__version__]
    facts += [f"{key}={getattr(pipeline, key)!r}" for key in stage.KEYS]
    if hasattr(stage, "inputs"):
        facts.append(stage.inputs(pipeline, folder))
    facts += [_digest(getattr(folder, name)) for name in stage.READS]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    """Hash of a file's bytes, or of a folder's files (large ones by size and time)."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".part-"))
        return hashlib.sha256(
            "".join(f"{p.relative_to(path)}{_digest(p)}" for p in files).encode()
        ).hexdigest()
    if not path.exists():
        return "absent"
    facts = path.stat()
    if facts.st_size > 5_000_000:
        return f"{facts.st_size}:{facts.st_mtime_ns}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _all_there(stage: ModuleType, folder: RunFolder) -> bool:
    return all(getattr(folder, name).exists() for name in stage.WRITES)


def _use_cores(pipeline: Pipeline) -> None:
    """Array libraries take what the pipeline allows; set before they are loaded."""
    import os

    count = str(pipeline.compute.cores or cores())
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, count)


# --- the Python API -----------------------------------------------------------------------------------------------


def build(
    name: str,
    *,
    in_channels: int,
    classes: int,
    dims: int | None = None,
    size: str = "paper",
    **arguments: Any,
) -> Any:
    """A system of the zoo, e.g. `medseg.build("3d-u-net", in_channels=1, classes=3)`.

    classes: channels of the logits, background included. dims: 2 or 3; default: 3 where the system has a 3D form.
    Raises UserError for unknown names and arguments.
    """
    from medseg.zoo.build import build as build_system
    from medseg.zoo.build import find

    form = max(find(name).dims) if dims is None else dims
    return build_system(name, dims=form, in_channels=in_channels, classes=classes, size=size, **arguments)


def new_folder(name: str, runs: Path) -> Path:
    """The next free run folder: runs/ct_lung-1, -2 ..."""
    taken = [p.name.rpartition("-")[2] for p in runs.glob(f"{name}-*")]
    return runs / f"{name}-{max([int(t) for t in taken if t.isdigit()], default=0) + 1}"


def newest_folder(name: str, runs: Path) -> Path:
    """The newest run folder of a pipeline; raises UserError when there is none to resume."""
    found = [p for p in runs.glob(f"{name}-*") if p.name.rpartition("-")[2].isdigit()]
    if not found:
        raise UserError(f"there is no run of {name} to resume", str(runs), "start it without --resume")
    return max(found, key=lambda p: int(p.name.rpartition("-")[2]))
