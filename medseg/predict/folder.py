"""`medseg predict MODEL --data FOLDER --out OUT`: one mask a case, named after the case. Downloads nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.config import Data, Pipeline
from medseg.core.case import Case, Image
from medseg.core.errors import UserError
from medseg.core.progress import say
from medseg.core.run import Result
from medseg.predict.share import ALL, Share, forecast, forecast_line

if TYPE_CHECKING:
    from medseg.predict.many import Task


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
    a manifest of all below `out`/manifest; the same call continues where it was stopped. Raises UserError for a folder without cases, for one that holds another model's
    masks, and when no case came through.
    """
    from medseg.data.cohort import find_cases, open_case
    from medseg.predict.many import Task, run_job
    from medseg.predict.stage import open_job, refuse_all_failed

    data = settings.data.model_copy(update={"root": str(data_root)})
    models = [Path(model_dir)] if isinstance(model_dir, str | Path) else [Path(one) for one in model_dir]
    predict = settings.predict.model_copy(update={"model": " ".join(map(str, models))})
    job = open_job(settings.model_copy(update={"data": data, "predict": predict}), models, Path(out))
    Path(out).mkdir(parents=True, exist_ok=True)
    if data_root.is_file() and data_root.suffix.lower() not in (".csv", ".parquet"):
        tasks = [single(data_root, data)]
        left_out: dict[str, str] = {}
    else:
        cohort = find_cases(data, data_root, _key(Path(out)))
        left_out = dict(cohort.left_out)
        tasks = [
            Task(
                row.case,
                partial(open_case, row, data, ()),
                tuple(name for channel in row.images for name in channel),
            )
            for row in cohort.rows
        ]
        say(f"  {len(tasks)} cases: {cohort.layout}" + (f", {len(left_out)} left out" if left_out else ""))
    if not tasks:
        raise UserError(
            "no cases found", str(data_root), "give a folder of images, a DICOM folder or a table"
        )
    chosen = share.of(tasks, Path(out))
    if len(chosen) < len(tasks):
        say(f"  {len(chosen)} of them in this call")
    result = run_job(job, chosen, left_out)
    _remember(Path(out), result, share)
    if share.trial and job.done:
        result.details["forecast"] = forecast(job.done, len(tasks), Path(out))
        result.line += "; " + forecast_line(result.details["forecast"])
    refuse_all_failed(result)
    return result


def _remember(out: Path, result: Result, share: Share) -> None:
    """The journal of this call, and the manifest of the folder."""
    from medseg.predict.manifest import record_result, write_manifest

    record_result(out, result, share.name)
    result.details["manifest"] = write_manifest(out)


def single(path: Path, data: Data) -> Task:
    """The task of one image file, named after the file."""
    from medseg.io.names import stem_of
    from medseg.predict.many import Task

    name = stem_of(path)
    return Task(name, partial(Case, name, name, partial(_read, path, data)), (str(path),))


def _read(path: Path, data: Data) -> Image:
    from medseg.io.doors import read_image

    return read_image(path, data.select.irregular, data.spacing_tolerance, channels=True)


def _key(out: Path) -> bytes:
    """The key of hashed names, kept beside the masks so that a second call finds the same cases."""
    from medseg.core.run import RunFolder
    from medseg.data.cohort import cohort_key

    return cohort_key(RunFolder(out))
