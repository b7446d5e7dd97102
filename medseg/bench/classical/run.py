"""The coordinator of `medseg bench classical`: what is missing, one process an entry, results file by file."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.bench.children import Children, ending
from medseg.bench.classical.fit import key_of, wanted
from medseg.bench.classical.recipe import ClassicalRecipe
from medseg.bench.entries import machine_facts, path_of, read_entry, write_entry
from medseg.bench.memory import Memory
from medseg.bench.run import folder_of
from medseg.core.atomic import read_json, write_json
from medseg.core.progress import say
from medseg.jobs.executor import map_cases

PARAMS = ("data_set", "system", "state", "error", "key", "rule", "prompted", "arguments", "images", "library")
METRICS = ("dice", "iou", "worst_dice", "oracle_dice", "covering_ods", "covering_ois", "boundary_f_ods",
           "boundary_f_ois", "precision", "recall", "cpu_seconds", "peak_ram_bytes", "added_ram_bytes",
           "library_cpu_seconds", "same_work_cpu_seconds", "ratio")  # fmt: skip
"""What MLflow keeps of an entry, where the entry has it."""

WAITING = 30
"""A process is ended after this many times its processor time, whatever keeps it from computing."""


@dataclass(frozen=True)
class Wish:
    """What a call is to do. systems, data_sets: none means all. data: the folder the sets lie in.

    out: where entries are written; work: logs; workers: processes at once. again: also entries whose key has not
    changed; retry: also entries that failed. track: to MLflow as well.
    """

    recipe: ClassicalRecipe
    out: Path
    work: Path
    data: Path | None = None
    systems: Sequence[str] = ()
    data_sets: Sequence[str] = ()
    workers: int = 1
    again: bool = False
    retry: bool = False
    track: bool = True


@dataclass
class Done:
    """What a call came to: entries measured now, failed now, and kept from before."""

    measured: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    kept: int = 0
    mlflow_run_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "measured": self.measured, "failed": self.failed, "kept": self.kept,
            "mlflow_run_id": self.mlflow_run_id,
        }  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One entry to measure. root: the folder of its set, None where it needs none."""

    data_set: str
    system: str
    key: str
    root: Path | None


def missing(wish: Wish) -> tuple[list[Job], int]:
    """The entries that have to run, and how many are kept. UserError for unknown names and absent folders."""
    asked = list(wanted(wish.recipe, wish.data_sets, wish.systems))
    todo: list[tuple[str, str, str]] = []
    for data_set, system in asked:
        key = key_of(wish.recipe, data_set, system)
        held = read_entry(path_of(wish.out, data_set, system))
        current = held is not None and held["key"] == key and not wish.again
        if not current or (wish.retry and held is not None and held["state"] == "failed"):
            todo.append((data_set, system, key))
    roots = {name: _root(wish, name) for name in dict.fromkeys(name for name, _, _ in todo)}
    jobs = [Job(data_set, system, key, roots[data_set]) for data_set, system, key in todo]
    return jobs, len(asked) - len(jobs)


def _root(wish: Wish, data_set: str) -> Path | None:
    images = wish.recipe.data_set(data_set)
    if images.measures == "speed":
        return None
    return folder_of(wish.data, images.folder or data_set, data_set)


def run(wish: Wish) -> Done:
    """Measures what is missing. A method that fails is an entry that says so; a stop keeps what is finished."""
    todo, kept = missing(wish)
    done = Done(kept=kept)
    if not todo:
        say(f"bench    nothing to do: {kept} entries are current")
        return done
    say(f"bench    {len(todo)} entries to measure, {kept} are current")
    memory = None
    if wish.track:
        name, settings = wish.recipe.name, {"cpu_seconds": wish.recipe.cpu_seconds, "workers": wish.workers}
        wish.work.mkdir(parents=True, exist_ok=True)
        memory = Memory.open(wish.work, f"bench-{name}", f"bench {name}", settings)
    status = "KILLED"
    try:
        with closing(entries_of(todo, wish)) as found:
            for entry in found:
                (done.failed if entry["state"] == "failed" else done.measured).append(entry)
                say(f"bench    {line_of(entry)}")
                if memory is not None:
                    memory.add(entry, PARAMS, METRICS)
        status = "FINISHED"
    finally:
        if memory is not None:
            memory.close(status)
            done.mlflow_run_id = memory.root.run_id
    return done


def entries_of(todo: Sequence[Job], wish: Wish) -> Generator[dict[str, Any], None, None]:
    """Measures entries, each in a process of its own, and gives each when its file is written."""
    children = Children()
    with children.ended_with_us():

        def work(job: Job) -> dict[str, Any]:
            return store(measure_apart(job, wish, children), wish, job)

        for outcome in map_cases(
            work,
            todo,
            "bench",
            workers=wish.workers,
            name=lambda j: f"{j.system} on {j.data_set}",
            unit="entries",
        ):
            entry = outcome.value
            yield entry or store({"state": "failed", "error": outcome.reason}, wish, outcome.item)


def measure_apart(job: Job, wish: Wish, children: Children) -> dict[str, Any]:
    """Runs one entry in its own process and reads what it wrote; a process that dies is a failed entry."""
    folder = wish.work / job.data_set / job.system
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    given, result = folder / "job.json", folder / "result.json"
    limit = wish.recipe.cpu_seconds
    images = wish.recipe.data_set(job.data_set)
    write_json(
        given,
        {
            "system": job.system,
            "root": None if job.root is None else str(job.root),
            "cpu_seconds": limit,
            "images": images.model_dump(mode="json"),
        },
    )
    command = [sys.executable, "-W", "ignore", "-m", "medseg.bench.classical.one", str(given), str(result)]
    log = wish.work / "logs" / job.data_set / f"{job.system}.log"
    code = children.finish(command, log, 1, WAITING * limit)
    found = dict(read_json(result)) if result.is_file() else None
    shutil.rmtree(folder, ignore_errors=True)
    if found is not None:
        return found
    if code is None or ending(code) in ("SIGXCPU", "SIGKILL: memory may not have sufficed"):
        return {"state": "failed", "error": f"took more than {limit} s of processor time and was ended"}
    return {"state": "failed", "error": f"its process ended with {ending(code)}"}


def store(facts: dict[str, Any], wish: Wish, job: Job) -> dict[str, Any]:
    """Writes an entry with what it was measured on."""
    machine = {name: value for name, value in machine_facts().items() if name != "torch"}
    entry = {
        "data_set": job.data_set,
        "system": job.system,
        **facts,
        "machine": {**machine, **versions()},
        "measured": time.strftime("%Y-%m-%d"),
        "key": job.key,
    }
    write_entry(wish.out, entry)
    return entry


def versions() -> dict[str, str]:
    """The versions of the libraries that classical methods call."""
    from importlib.metadata import version

    return {name: version(name) for name in ("numpy", "scipy", "scikit-image", "scikit-learn", "SimpleITK")}


def line_of(entry: dict[str, Any]) -> str:
    """An entry as a line for people."""
    place = f"{entry['data_set']:<12} {entry['system']:<24}"
    if entry["state"] == "failed":
        return f"{place} failed: {entry['error']}"
    names = ("dice", "oracle_dice", "covering_ods", "boundary_f_ods")
    figures = [f"{name} {entry[name]:.3f}" for name in names if name in entry]
    return f"{place} {'  '.join(figures)}  {entry['cpu_seconds']:.2f} s"
