"""Which run folder a call works in, and that it works there alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medseg.config import Pipeline

RUNS = Path("runs")
LOCK = ".lock"


@contextmanager
def run_place(pipeline: Pipeline, out: Path | None, resume: bool) -> Iterator[Path]:
    """The run folder: `out`, the newest one of the pipeline, or a new one. A new one in which nothing was begun goes away.

    Raises UserError where there is no run to resume, and where `out` holds a person's own files of these names.
    """
    from medseg.core.run import refuse_others_files

    if out is not None:
        refuse_others_files(out)
    place = out or (_newest(pipeline) if resume else _new(pipeline))
    is_new = out is None and not resume
    try:
        yield place
    finally:
        if is_new and {path.name for path in place.glob("*")} <= {LOCK}:
            with suppress(OSError):
                (place / LOCK).unlink(missing_ok=True)
                place.rmdir()


def _newest(pipeline: Pipeline) -> Path:
    from medseg.pipeline import newest_folder

    return newest_folder(pipeline.name, RUNS)


def _new(pipeline: Pipeline) -> Path:
    """The next free run folder, made at once: two calls at one moment get a folder each."""
    from medseg.pipeline import new_folder

    while True:
        place = new_folder(pipeline.name, RUNS)
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            continue
        return place


@contextmanager
def alone(pipeline: Pipeline, place: Path) -> Iterator[None]:
    """Holds the run folder: another call on it waits, for two trainings must not share a folder.

    Jobs that train folds of one cross-validation side by side take turns in what they share by themselves.
    """
    if pipeline.train.several:
        yield
        return
    from medseg.jobs.lock import one_at_a_time

    with one_at_a_time(place / LOCK, "this run folder"):
        yield
