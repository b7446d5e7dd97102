"""The coordinator of a benchmark: which entries are missing, one process an entry, results file by file, MLflow."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.bench import entries
from medseg.bench.baselines import BASELINES
from medseg.bench.children import Children, ending
from medseg.bench.memory import Memory
from medseg.bench.one import Entry, with_data_set
from medseg.bench.recipe import Recipe
from medseg.config import System
from medseg.core.atomic import read_json, write_json
from medseg.core.errors import UserError
from medseg.core.progress import say
from medseg.jobs.executor import map_cases
from medseg.jobs.lock import one_at_a_time
from medseg.zoo.build import find

SHARED = 20
"""Times its minutes that an entry may take before its process is ended: other work may hold the processor meanwhile."""

BESIDE_TRAINING_MINUTES = 20.0
"""What it may take beside that."""


@dataclass(frozen=True)
class Wish:
    """What a call is to do. systems, data_sets: none means all. data: the folder the sets lie in.

    out: where entries are written; work: prepared cases and logs; workers: processes at once.
    again: also entries whose key has not changed; retry: also entries that failed with this key.
    """

    recipe: Recipe
    out: Path
    work: Path
    data: Path | None = None
    systems: Sequence[str] = ()
    data_sets: Sequence[str] = ()
    shard: str | None = None
    workers: int = 1
    again: bool = False
    retry: bool = False
    track: bool = True


@dataclass
class Done:
    """What a call came to: entries (data set, system) measured now, failed now, and kept from before."""

    measured: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    kept: int = 0
    mlflow_run_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        short = ("data_set", "system", "size", "dice", "miou", "steps", "step_seconds", "image_seconds",
                 "peak_ram_bytes", "parameters", "gflop")  # fmt: skip
        return {
            "measured": [{name: entry.get(name) for name in short} for entry in self.measured],
            "failed": [
                {name: entry[name] for name in ("data_set", "system", "error")} for entry in self.failed
            ],
            "kept": self.kept,
            "mlflow_run_id": self.mlflow_run_id,
        }


def missing(wish: Wish) -> tuple[list[tuple[str, str, str]], int]:
    """(data set, system, key) of the entries that have to run, and how many are kept as they are."""
    names = list(wish.data_sets) or list(wish.recipe.data_sets)
    asked = list(entries.wanted(wish.recipe, names, wish.systems))
    if wish.shard is not None:
        asked = entries.of_shard(asked, wish.shard)
    found = []
    for data_set, system in asked:
        key = entries.key_of(wish.recipe, data_set, system)
        held = entries.read_entry(entries.path_of(wish.out, data_set, system))
        current = held is not None and held["key"] == key and not wish.again
        if not current or (wish.retry and held is not None and held["state"] == "failed"):
            found.append((data_set, system, key))
    return found, len(asked) - len(found)


def run(wish: Wish) -> Done:
    """Measures what is missing. A system that fails is an entry that says so; a stop keeps what is finished."""
    todo, kept = missing(wish)
    done = Done(kept=kept)
    if not todo:
        say(f"bench    nothing to do: {kept} entries are current")
        return done
    wish.work.mkdir(parents=True, exist_ok=True)
    roots = {name: root_of(wish, name) for name in dict.fromkeys(name for name, _, _ in todo)}
    bases = {name: prepare(wish, name, root) for name, root in roots.items()}
    jobs = [
        Entry(
            wish.recipe, data_set, system, size_of(wish.recipe, system), roots[data_set], bases[data_set], key
        )
        for data_set, system, key in todo
    ]
    say(f"bench    {len(jobs)} entries to measure, {kept} are current")
    memory = _memory(wish) if wish.track else None
    children = Children()
    status = "KILLED"
    try:
        with children.ended_with_us():

            def work(job: Entry) -> dict[str, Any]:
                return store(measure_apart(job, wish, children), wish, job)

            for outcome in map_cases(
                work,
                jobs,
                "bench",
                workers=wish.workers,
                name=lambda e: f"{e.system} on {e.data_set}",
                unit="entries",
            ):
                _keep(outcome, wish, done, memory)
        status = "FINISHED"
    finally:
        if memory is not None:
            memory.close(status)
            done.mlflow_run_id = memory.root.run_id
    return done


def _keep(outcome: Any, wish: Wish, done: Done, memory: Memory | None) -> None:
    """Counts an entry and sends it to MLflow; its file was written by the thread that measured it."""
    job = outcome.item
    failed = {"state": "failed", "error": outcome.reason}
    entry = outcome.value if outcome.error is None else store(failed, wish, job)
    if entry["state"] == "failed":
        done.failed.append(entry)
        say(f"bench    {job.system} on {job.data_set} failed: {entry['error']}")
    else:
        done.measured.append(entry)
        say(f"bench    {job.system} on {job.data_set}: Dice {entry['dice']:.3f}, mIoU {entry['miou']:.3f}")
    if memory is not None:
        memory.add(entry, PARAMS, COLUMNS)


def store(facts: dict[str, Any], wish: Wish, job: Entry) -> dict[str, Any]:
    """Writes an entry with what it was measured by and on, and lets go of the run it came from."""
    settings = wish.recipe.settings(job.data_set)
    entry = {
        "data_set": job.data_set, "system": job.system, "size": "" if job.is_baseline else job.size, **facts,
        "minutes": wish.recipe.minutes, "seed": settings.get("compute", {}).get("seed", 17),
        "threads": settings.get("compute", {}).get("cores", 1), "workers": wish.workers,
        "machine": entries.machine_facts(), "measured": time.strftime("%Y-%m-%d"), "key": job.key,
    }  # fmt: skip
    entries.write_entry(wish.out, entry)
    with suppress(OSError):
        shutil.rmtree(job.folder.path)
    return entry


def size_of(recipe: Recipe, system: str) -> str:
    """The size of a system, or of the network that lends a baseline its plan."""
    return recipe.size_of(find(recipe.reference if system in BASELINES else system))


# --- data ---------------------------------------------------------------------------------------------------------


def root_of(wish: Wish, data_set: str) -> Path:
    """The folder of a data set. Raises UserError when it is not there."""
    return folder_of(wish.data, wish.recipe.data_set(data_set).folder or data_set, data_set)


def folder_of(data: Path | None, folder: str, data_set: str) -> Path:
    """The folder below `data`, else below MEDSEG_DATA. Raises UserError when it is not there."""
    named = data or (Path(os.environ["MEDSEG_DATA"]) if os.environ.get("MEDSEG_DATA") else None)
    if named is None:
        raise UserError(
            "no data is named",
            "medseg bench",
            "give --data FOLDER or set MEDSEG_DATA: one folder a data set in it",
        )
    if not (named / folder).is_dir():
        raise UserError(
            f"there is no folder {folder!r} for the data set {data_set}",
            str(named),
            f"data_manifests/{data_set}.yaml says where the set is found; or leave it out with --data-sets",
        )
    return (named / folder).resolve()


def prepare(wish: Wish, data_set: str, root: Path) -> Path:
    """Checks and prepares a data set once for all systems; later calls find it as it is. Returns its run folder."""
    from medseg.pipeline import run as walk

    base = (wish.work / data_set).resolve()
    size = wish.recipe.size_of(find(wish.recipe.reference))
    pipeline = wish.recipe.pipeline(data_set, System(name=wish.recipe.reference, size=size), root)
    pipeline = pipeline.model_copy(update={"track": pipeline.track.model_copy(update={"enabled": False})})
    base.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(base / "preparing.lock", f"the cases of {data_set}"):
        walk(with_data_set(pipeline), base, steps=("check", "plan", "ingest"))
    return base


# --- one process an entry -----------------------------------------------------------------------------------------


def measure_apart(job: Entry, wish: Wish, children: Children) -> dict[str, Any]:
    """Runs one entry in its own process and reads what it wrote; a process that dies is a failed entry."""
    folder = job.folder.path
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    given, result = folder / "job.json", folder / "result.json"
    write_json(given, job.as_json())
    command = [sys.executable, "-m", "medseg.bench.one", str(given), str(result)]
    log = wish.work / "logs" / job.data_set / f"{job.system}.log"
    threads = wish.recipe.settings(job.data_set).get("compute", {}).get("cores", 1)
    seconds = 60 * (SHARED * job.recipe.minutes + BESIDE_TRAINING_MINUTES)
    code = children.finish(command, log, threads, seconds)
    if code is None:
        return {"state": "failed", "error": f"took more than {SHARED} times its minutes and was ended"}
    if not result.is_file():
        return {"state": "failed", "error": f"its process ended with {ending(code)}"}
    return dict(read_json(result))


# --- MLflow -------------------------------------------------------------------------------------------------------

PARAMS = ("data_set", "system", "size", "state", "key", "patch")
COLUMNS = ("dice", "miou", "steps", "step_seconds", "image_seconds", "peak_ram_bytes", "parameters", "gflop",
           "train_seconds")  # fmt: skip


def _memory(wish: Wish) -> Memory:
    name = f"bench {wish.recipe.name}" + (f" {wish.shard}" if wish.shard else "")
    settings = {"minutes": wish.recipe.minutes, "common": wish.recipe.common}
    return Memory.open(wish.work, f"bench-{wish.recipe.name}", name, settings)
