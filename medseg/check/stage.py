"""The first step: find the cases, look at each, and write down what is fit for use and what is not and why."""

from __future__ import annotations

from pathlib import Path

from medseg.check.failed import write_failed
from medseg.check.listing import listing_digest
from medseg.check.look import Checked, check_cohort
from medseg.config import Data, Pipeline
from medseg.core.atomic import write_json
from medseg.core.errors import UserError
from medseg.core.progress import say
from medseg.core.run import Result, RunFolder
from medseg.data.cohort import cohort_key, data_root, find_cases, resolved, save_cohort
from medseg.data.patients import require_clear_patients
from medseg.data.reading import read_image
from medseg.data.rows import Cohort
from medseg.ingest.asked import require_grid

KEYS = ("data", "system", "predict")
READS: tuple[str, ...] = ()
WRITES = ("check_json", "cases", "sources")


def inputs(pipeline: Pipeline, folder: RunFolder) -> str:
    """Equal digest, nothing changed: paths, sizes and times of the files this step would read."""
    return listing_digest(pipeline.data)


def run(pipeline: Pipeline, folder: RunFolder) -> Result:
    """Checks every case; writes check.json, cases.parquet and private/sources.json.

    Raises UserError when no case is left, or when a run that trains has nothing to train on.
    """
    data = with_phantom(pipeline, folder)
    root = data_root(data)
    cohort = find_cases(data, root, cohort_key(folder))
    training = trains(pipeline)
    if training:
        require_clear_patients(cohort)
        ask_first_case(pipeline, cohort, data)
    checked = check_cohort(cohort, resolved(data, root), training, pipeline.compute.workers)
    write_failed(checked.cohort, checked.states, folder)
    refuse_nothing_left(checked, training)
    save_cohort(checked.cohort, folder, checked.table)
    write_json(folder.check_json, checked.facts)
    for note in checked.facts["notes"]:
        if note not in cohort.notes:
            say(f"  {note}")
    result = checked.result
    result.details = {
        key: checked.facts[key] for key in ("layout", "patients", "orientation", "splits", "class_cases")
    }
    return result


def ask_first_case(pipeline: Pipeline, cohort: Cohort, data: Data) -> None:
    """Holds a grid, patch or window that was asked for against one case: a wrong number of axes shows before all are
    read."""
    sizes = (pipeline.ingest.spacing_mm, pipeline.train.patch_size, pipeline.predict.window)
    if all(isinstance(size, str) for size in sizes) and pipeline.ingest.spacing_px is None:
        return
    for row in cohort.rows[:3]:
        try:
            image = read_image(row, data)
        except Exception:  # whatever is wrong with it, the check will name it
            continue
        grid = image.geometry
        require_grid(pipeline, grid.shape, grid.spacing, grid.unit, len(image.array))
        return


def trains(pipeline: Pipeline) -> bool:
    """Whether this journey trains a network: then cases need labels."""
    if pipeline.predict.model is not None:
        return False
    from medseg.zoo.catalog import cards, names_of

    kinds = {name: card.kind for card in cards() for name in names_of(card)}
    return any(kinds.get(system.name, "network") == "network" for system in pipeline.systems)


def with_phantom(pipeline: Pipeline, folder: RunFolder) -> Data:
    """The data section; where it names no data but a phantom, the phantom is made first."""
    data = pipeline.data
    if data.root is not None or data.manifest is not None or data.phantom is None:
        return data
    from medseg.core.machine import cores
    from medseg.data.phantom import make_cohort

    workers = pipeline.compute.workers or cores()
    manifest: Path = make_cohort(folder.root.path / "phantom", data.phantom, workers)
    return data.model_copy(update={"manifest": str(manifest)})


def refuse_nothing_left(checked: Checked, training: bool) -> None:
    """Raises UserError when there is nothing to work with, with the reasons of the cases."""
    rows, states = checked.cohort.rows, checked.states
    usable = [row for row, (status, _) in zip(rows, states) if status == "ok"]
    if not usable and training and not any(row.labels for row in rows):
        raise UserError(
            f"none of {len(rows)} cases has a label, and this journey trains a network",
            "data",
            "give the labels (a label column, or a folder beside the images), or --model FOLDER to predict only",
            [checked.masks] if checked.masks else (),
        )
    if not usable:
        raise UserError(
            f"none of {len(rows)} cases can be used",
            "data",
            checked.hint or "private/failed.csv in the run folder lists the files",
            [f"case {row.case}: {reason.split(' -> ')[0]}" for row, (_, reason) in zip(rows, states)][:12],
        )
    if training and not any(row.split == "train" for row in usable):
        raise UserError(
            f"none of {len(usable)} usable cases is left to train on", "data", "check.json has the reasons"
        )
