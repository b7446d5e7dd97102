"""One interface to do many cases, shaped like `concurrent.futures.Executor`.

In-process threads are the default: readers, codecs and array code release Python's lock, nothing is copied between
processes, and a script that calls medseg is never started again for a worker.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from medseg.core.errors import Interrupted, UserError
from medseg.core.machine import cores
from medseg.core.progress import Progress

if TYPE_CHECKING:
    from medseg.config_types import Cluster

Item = TypeVar("Item")
Out = TypeVar("Out")


class InProcess(Executor):
    """Does each task at once, in the caller's thread."""

    def submit(self, fn: Callable[..., Out], /, *args: Any, **kwargs: Any) -> Future[Out]:
        future: Future[Out] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as err:
            future.set_exception(err)
        return future

    def map(self, fn: Callable[..., Out], *iterables: Any, **options: Any) -> Iterator[Out]:
        """Each result when it is asked for, so that progress is seen as it is made."""
        return map(fn, *iterables)


def open_executor(workers: int | None) -> Executor:
    """Threads for `workers` > 1, else in-process; None means the cores."""
    count = cores() if workers is None else workers
    return ThreadPoolExecutor(count, thread_name_prefix="medseg") if count > 1 else InProcess()


def open_workers(cluster: Cluster, environment: Mapping[str, str] | None = None) -> Executor:
    """The workers that `compute.cluster` names: processes of this computer, or those of a Dask cluster.

    They are given functions of modules of medseg, with arguments and results that JSON can hold. environment: variables
    set in processes of this computer. Raises UserError where a package is missing or nothing can be started.
    """
    if cluster.kind == "processes":
        from medseg.jobs.processes import Processes

        return Processes(worker_count(cluster), environment)
    from medseg.jobs.cluster import DaskWorkers

    return DaskWorkers(cluster)


def worker_count(cluster: Cluster) -> int:
    """How many workers are wanted; 1 where this process does all itself."""
    defaults = {"none": 1, "processes": 2, "dask": 2}
    return 1 if cluster.kind == "none" else cluster.workers or defaults.get(cluster.kind, 4)


@dataclass(frozen=True)
class Outcome(Generic[Item, Out]):
    """What became of one item: a value, or the sentence that says why not."""

    item: Item
    value: Out | None = None
    error: BaseException | None = None

    @property
    def reason(self) -> str:
        """Why it failed and what to do, on one line free of paths; empty when it did not."""
        if self.error is None:
            return ""
        if isinstance(self.error, UserError):
            return f"{self.error.what} -> {self.error.hint}" if self.error.hint else self.error.what
        if type(self.error).__name__ == "KilledWorker":
            return "every worker that began it was lost: killed for want of memory, or at the end of its job's time"
        return f"{type(self.error).__name__} in {_place_of(self.error)}"


def _place_of(error: BaseException) -> str:
    # The text of a foreign error can hold a path or a name; the place in our code cannot.
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "medseg" in f.filename]
    return f"{frames[-1].name}, line {frames[-1].lineno}" if frames else "a library"


def map_cases(
    work: Callable[[Item], Out],
    items: Sequence[Item],
    title: str,
    *,
    workers: int | None = None,
    name: Callable[[Item], str] = str,
    unit: str = "cases",
    pool: Executor | None = None,
) -> Iterator[Outcome[Item, Out]]:
    """Does `work` for every item and yields outcomes as they finish; a failing item never stops the others.

    Interruption (Ctrl-C, SIGTERM) and a full disk do stop: the latter would only fail every further case as well.
    Not more than twice as many items as workers are in flight, so results never pile up in memory. pool: who does the
    work (see `open_workers`), left open; default: threads of this process.
    """
    count = cores() if workers is None else max(1, workers)
    queue = iter(items)
    opened = nullcontext(pool) if pool is not None else open_executor(count)
    with opened as hands, Progress(title, len(items), unit) as bar:
        flying: dict[Future[Out], Item] = {}
        try:
            for item in islice(queue, 2 * count):
                flying[hands.submit(work, item)] = item
            while flying:
                ready, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in ready:
                    item = flying.pop(future)
                    for following in islice(queue, 1):
                        flying[hands.submit(work, following)] = following
                    bar.advance(note=name(item))
                    yield _outcome(item, future)
        except BaseException:
            for future in flying:
                future.cancel()
            raise


def _outcome(item: Item, future: Future[Out]) -> Outcome[Item, Out]:
    error = future.exception()
    if error is None:
        return Outcome(item, future.result())
    if isinstance(error, Interrupted) or (isinstance(error, UserError) and "disk is full" in error.what):
        raise error
    return Outcome(item, error=error)
