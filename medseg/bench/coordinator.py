"""What all benchmarks share: which entries are missing, one process an entry, results file by file, MLflow."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from medseg.bench.children import Children
from medseg.bench.entries import of_shard, path_of, read_entry
from medseg.bench.memory import Memory
from medseg.core.errors import UserError
from medseg.core.progress import say
from medseg.jobs.executor import map_cases

Facts = dict[str, Any]


class Named(Protocol):
    """A recipe, as far as this file looks at it."""

    name: str


class Job(Protocol):
    """An entry to measure, as far as this file looks at it."""

    @property
    def data_set(self) -> str: ...

    @property
    def system(self) -> str: ...


R = TypeVar("R", bound=Named)
J = TypeVar("J", bound=Job)


@dataclass(frozen=True)
class Wish(Generic[R]):
    """What a call is to do. systems, data_sets: none means all. data: the folder the sets lie in.

    out: where entries are written; work: prepared cases and logs; shard: `i/n`; workers: processes at once.
    again: also entries whose key has not changed; retry: also entries that failed with this key. track: to MLflow as
    well.
    """

    recipe: R
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
    """What a call came to: entries measured now, failed now, and kept from before."""

    measured: list[Facts] = field(default_factory=list)
    failed: list[Facts] = field(default_factory=list)
    kept: int = 0
    mlflow_run_id: str | None = None

    def as_json(self) -> Facts:
        return {
            "measured": self.measured,
            "failed": self.failed,
            "kept": self.kept,
            "mlflow_run_id": self.mlflow_run_id,
        }


@dataclass(frozen=True)
class Ways(Generic[J]):
    """How one benchmark does it.

    measure: an entry in a process of its own -> its facts. store: writes the facts as a file -> the whole entry. line:
    an entry for people. settings: of the call; params, metrics: facts of an entry that MLflow keeps as one or the other.
    """

    measure: Callable[[J, Children], Facts]
    store: Callable[[Facts, J], Facts]
    line: Callable[[Facts], str]
    settings: Mapping[str, Any]
    params: Sequence[str]
    metrics: Sequence[str]


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


def missing(
    wish: Wish[R],
    asked: Sequence[tuple[str, str]],
    key_of: Callable[[R, str, str], str],
    is_unfinished: Callable[[Facts], bool] = lambda held: False,
) -> tuple[list[tuple[str, str, str]], int]:
    """(data set, system, key) of the entries asked for that have to run, and how many are kept as they are.

    is_unfinished: whether an entry whose key has not changed is to run again all the same.
    """
    asked = asked if wish.shard is None else of_shard(asked, wish.shard)
    found = []
    for data_set, system in asked:
        key = key_of(wish.recipe, data_set, system)
        held = read_entry(path_of(wish.out, data_set, system))
        current = held is not None and held["key"] == key and not wish.again and not is_unfinished(held)
        if not current or (wish.retry and held is not None and held["state"] == "failed"):
            found.append((data_set, system, key))
    return found, len(asked) - len(found)


def measure_all(wish: Wish[R], jobs: Sequence[J], kept: int, ways: Ways[J]) -> Done:
    """Measures entries. One that fails is an entry that says so; a stop keeps what is finished."""
    done = Done(kept=kept)
    if not jobs:
        say(f"bench    nothing to do: {kept} entries are current")
        return done
    say(f"bench    {len(jobs)} entries to measure, {kept} are current")
    wish.work.mkdir(parents=True, exist_ok=True)
    memory = _memory(wish, ways) if wish.track else None
    children, status = Children(), "KILLED"

    def work(job: J) -> Facts:
        return ways.store(ways.measure(job, children), job)

    try:
        with children.ended_with_us():
            for outcome in map_cases(
                work, jobs, "bench", workers=wish.workers, name=lambda j: f"{j.system} on {j.data_set}", unit="entries"
            ):  # fmt: skip
                failed = {"state": "failed", "error": outcome.reason}
                entry = ways.store(failed, outcome.item) if outcome.value is None else outcome.value
                (done.failed if entry["state"] == "failed" else done.measured).append(entry)
                say(f"bench    {ways.line(entry)}")
                if memory is not None:
                    memory.add(entry, ways.params, ways.metrics)
        status = "FINISHED"
    finally:
        if memory is not None:
            memory.close(status)
            done.mlflow_run_id = memory.root.run_id
    return done


def _memory(wish: Wish[R], ways: Ways[J]) -> Memory:
    name = f"bench {wish.recipe.name}" + (f" {wish.shard}" if wish.shard else "")
    return Memory.open(wish.work, f"bench-{wish.recipe.name}", name, ways.settings)
