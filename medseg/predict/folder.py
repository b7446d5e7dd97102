"""`medseg predict MODEL --data FOLDER --out OUT`: one mask a case, named after the case. Downloads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.config import Data, Pipeline
from medseg.config_types import Prompts
from medseg.core.at_work import at_work
from medseg.core.case import Case, Image
from medseg.core.errors import UserError
from medseg.core.progress import say
from medseg.core.run import Result
from medseg.core.segmentation import ClassInfo
from medseg.predict.share import ALL, Share, forecast, forecast_line
from medseg.predict.spread import Order

if TYPE_CHECKING:
    from medseg.data.rows import CaseRow
    from medseg.predict.job import Job, Task


def predict_folder(
    model_dir: Path | Sequence[Path],
    data_root: Path,
    out: Path,
    settings: Pipeline,
    share: Share = ALL,
) -> Result:
    """Segments an image file, a DICOM folder, a folder of cases or a manifest with a model folder.

    model_dir: one model folder, or several whose outputs are averaged (`predict.ensemble`). settings: a
    journey of which data, predict and compute count. share: which of the cases. Masks and a JSON a case lie in `out`,
    a manifest of all below `out`/manifest; the same call continues where it was stopped. Raises UserError for a folder
    without cases, for one that holds another model's masks, and when no case came through.
    """
    models = [Path(model_dir)] if isinstance(model_dir, str | Path) else [Path(one) for one in model_dir]
    return _predict(Places((tuple(models),), (Path(out),), Path(out), Path(data_root)), settings, share)[0]


def predict_each(
    model_dirs: Sequence[Path], data_root: Path, out: Path, settings: Pipeline, share: Share = ALL
) -> dict[str, Result]:
    """Segments a cohort with each of several models: a case is read once, and prepared once for plans that agree.

    The masks of a model lie in `out`/NAME with a manifest of their own; NAME is that of its folder or run, and the
    results come by it. Otherwise as `predict_folder`.
    """
    names = folder_names(model_dirs)
    outs = tuple(Path(out) / name for name in names)
    places = Places(tuple((Path(one),) for one in model_dirs), outs, Path(out), Path(data_root))
    return dict(zip(names, _predict(places, settings, share), strict=True))


def folder_names(models: Sequence[Path]) -> list[str]:
    """A name a model: its folder's, or its run's where the folder is called `model`; numbered where two are equal."""
    found: list[str] = []
    for path in (Path(one).resolve() for one in models):
        name = path.parent.name if path.name == "model" else path.name
        same = sum(one == name or one.rpartition("-")[0] == name for one in found)
        found.append(f"{name}-{same + 1}" if name in found else name)
    return found


@dataclass(frozen=True)
class Places:
    """Where things lie: groups of model folders (several: their mean), a folder of masks for each, the folder of all,
    and the data."""

    models: tuple[tuple[Path, ...], ...]
    outs: tuple[Path, ...]
    home: Path
    data: Path


def _predict(places: Places, settings: Pipeline, share: Share) -> list[Result]:
    from medseg.predict.channels import with_channels
    from medseg.predict.manifest import journal_of
    from medseg.predict.outputs import refuse_others_files
    from medseg.predict.stage import open_job, refuse_all_failed, run_cases

    data = settings.data.model_copy(update={"root": str(places.data)})
    predict = settings.predict.model_copy(update={"model": " ".join(str(m) for m in places.models[0])})
    pipeline = settings.model_copy(update={"data": data, "predict": predict})
    jobs = []
    for models, out in zip(places.models, places.outs, strict=True):
        jobs.append(open_job(pipeline, models, out))
        jobs[-1].journal = journal_of(out, share.name)
        out.mkdir(parents=True, exist_ok=True)
    classes = jobs[0].predictor.model.classes
    plans = [job.predictor.model.plan for job in jobs]
    pipeline = pipeline.model_copy(update={"data": with_channels(pipeline.data, plans)})
    first_files = _read_sources(places.home)
    tasks, left_out = _find(places, pipeline, classes)
    for out in places.outs:
        refuse_others_files(
            out, [task.case for task in tasks], (name for task in tasks for name in task.files)
        )
    left_out |= _gone(jobs, [task.case for task in tasks], first_files)
    for job in jobs:
        job.list_input([task.case for task in tasks], left_out)
    chosen = share.of(tasks, *places.outs)
    for job in jobs:
        job.expected = len(tasks) if share.trial else len(chosen)
    if len(chosen) < len(tasks):
        say(f"  {len(chosen)} of them in this call")
    order = Order(pipeline, places.models, places.outs, tuple(classes))
    with ExitStack() as working:
        for out in places.outs:
            working.enter_context(at_work(out))
        results = run_cases(jobs, chosen, order, left_out)
    for job, result in zip(jobs, results, strict=True):
        _remember(job.out, result, share)
        if share.trial and job.done:
            result.details["forecast"] = forecast(job.done, len(tasks), job.out)
            result.line += "; " + forecast_line(result.details["forecast"])
    for result in results:
        refuse_all_failed(result)
    return results


def _find(
    places: Places, pipeline: Pipeline, classes: Sequence[ClassInfo]
) -> tuple[list[Task], dict[str, str]]:
    """The cases, and what was left out with the reason."""
    from medseg.data.cohort import find_cases
    from medseg.predict.job import task_of

    root, data, prompts = places.data, pipeline.data, pipeline.predict.prompt
    if root.is_file() and root.suffix.lower() not in (".csv", ".parquet"):
        return [single(root, data, prompts, classes)], {}
    cohort = find_cases(data, root, _key(places.home))
    if not cohort.rows:
        raise UserError("no cases found", str(root), "give a folder of images, a DICOM folder or a table")
    left_out = dict(cohort.left_out)
    _write_sources(places.home, cohort.rows)
    say(f"  {len(cohort.rows)} cases: {cohort.layout}" + (f", {len(left_out)} left out" if left_out else ""))
    return [task_of(row, data, prompts, classes) for row in cohort.rows], left_out


def _write_sources(home: Path, rows: Sequence[CaseRow]) -> None:
    """private/cases.csv: which case came from where. It may name people and is for the owner's eyes alone."""
    import csv
    import os

    from medseg.core.atomic import atomic_path
    from medseg.core.run import RunFolder

    target = RunFolder(home).private / "cases.csv"
    with (
        atomic_path(target) as part,
        part.open("w", newline="", encoding="utf-8-sig", errors="backslashreplace") as file,
    ):
        table = csv.writer(file)
        table.writerow(("case", "first file", "files"))
        table.writerows((row.case, Path(row.files[0]).absolute(), len(row.files)) for row in rows)
    os.chmod(target, 0o600)


def _read_sources(home: Path) -> dict[str, str]:
    """Case -> its first file, as an earlier call on this folder wrote it down."""
    import csv

    from medseg.core.run import RunFolder

    table = RunFolder(home).private / "cases.csv"
    if not table.is_file():
        return {}
    with table.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        return {row["case"]: row.get("first file") or "" for row in csv.DictReader(file) if row.get("case")}


def _gone(jobs: Sequence[Job], cases: Sequence[str], first_files: Mapping[str, str]) -> dict[str, str]:
    """Cases without a mask whose file is there no more, with the reason: they count as left out, not as failed.

    A case of another data folder, whose file is still there, stays what it was.
    """
    from medseg.jobs.journal import outcomes

    gone = {}
    for job in jobs:
        for state in ("listed", "waiting", "failed") if job.journal else ():
            for _, _, case, _, reason in outcomes(job.journal, state):
                first = Path(first_files.get(case, ""))
                if case not in cases and first.is_absolute() and not first.exists():
                    gone[case] = "its file is not in the data any more" + (
                        f"; it failed before: {reason}" if state == "failed" else ""
                    )
    if gone:
        names = ", ".join(sorted(gone)[:5]) + (" ..." if len(gone) > 5 else "")
        say(f"  {len(gone)} unfinished cases are not in the data any more and are left out: {names}")
    return gone


def _remember(out: Path, result: Result, share: Share) -> None:
    """The journal of this call, and the manifest of the folder."""
    from medseg.predict.manifest import record_result, write_manifest

    record_result(out, result, share.name)
    result.details["manifest"] = write_manifest(out, left_out=result.skipped)


def single(path: Path, data: Data, prompts: Prompts | None = None, classes: Sequence[ClassInfo] = ()) -> Task:
    """The task of one image file, named after the file."""
    from medseg.data.rows import CaseRow
    from medseg.io.names import stem_of
    from medseg.predict.job import Task
    from medseg.predict.prompts import find_hints

    name = stem_of(path)
    hints = find_hints(CaseRow(name, name, ((str(path),),)), data, prompts, classes)
    return Task(name, partial(Case, name, name, partial(_read, path, data)), (str(path),), hints)


def _read(path: Path, data: Data) -> Image:
    from medseg.io.doors import read_image

    return read_image(path, data.select.irregular, data.spacing_tolerance, channels=True)


def _key(out: Path) -> bytes:
    """The key of hashed names, kept beside the masks so that a second call finds the same cases."""
    from medseg.core.run import RunFolder
    from medseg.data.cohort import cohort_key

    return cohort_key(RunFolder(out))
