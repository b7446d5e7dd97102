"""The step `report`: one self-contained page from the tables that the other steps wrote."""

from __future__ import annotations

import hashlib

from medseg.config import Pipeline
from medseg.core.atomic import atomic_path, write_text
from medseg.core.errors import UserError
from medseg.core.progress import Progress
from medseg.core.run import Result, RunFolder
from medseg.report.gather import gather
from medseg.report.page import render
from medseg.report.pictures import picture_of

KEYS = ("name", "data", "system", "report", "score")
READS = ("check_json", "cases")
WRITES = ("report",)


def inputs(pipeline: Pipeline, folder: RunFolder) -> str:
    """What each system's tables hold; they lie in folders of their own when several systems are compared."""
    digest = hashlib.sha256()
    for _, place in _folders(pipeline, folder):
        sidecars = sorted(place.predictions.rglob("*.json")) if place.predictions.is_dir() else []
        joined = [place.folds_json, place.postprocessing, folder.choice] if pipeline.train.several else []
        for path in (place.plan, place.scores_json, place.history, *sidecars, *joined):
            digest.update(path.read_bytes() if path.is_file() else b"absent")
    return digest.hexdigest()


def run(pipeline: Pipeline, folder: RunFolder) -> Result:
    """Writes report.html and the overlay pictures; a picture that cannot be made is said and left out."""
    sheets = [gather(pipeline.for_system(s), f) for s, f in _folders(pipeline, folder)]
    missing: dict[str, str] = {}
    shown = [(sheet, case) for sheet in sheets for case in sheet.shown(pipeline.report.worst)]
    with Progress("report", max(1, len(shown)), "pictures") as bar:
        for sheet, case in shown:
            try:
                png = picture_of(pipeline, sheet, case)
            except (UserError, OSError, ValueError) as err:
                missing[case] = (
                    f"no picture: {err.what if isinstance(err, UserError) else type(err).__name__}"
                )
                continue
            sheet.pictures[case] = png
            with atomic_path(sheet.folder.figures / f"{case}.png") as part:
                part.write_bytes(png)
            bar.advance(note=case)
    write_text(folder.report, render(pipeline, folder, sheets))
    count = sum(len(s.pictures) for s in sheets)
    return Result(
        "report", f"wrote report.html with {count} pictures", done=count, details={"no_picture": missing}
    )


def _folders(pipeline: Pipeline, folder: RunFolder) -> list[tuple]:
    systems = pipeline.systems
    if len(systems) == 1:
        return [(systems[0], folder)]
    return [(s, folder.system(s.slug)) for s in systems]
