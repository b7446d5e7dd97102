"""The phantom cohort: people who never lived, scanned as real DICOM series with labels that are exact.

Each patient has random anatomy, disease and surroundings, seen by a random scanner (medseg/data/ct_chest). The lungs'
labels are the shapes they were painted from, so they hold no annotator's opinion: vessels, airways, nodules and
consolidation inside a lung belong to it; windpipe, main bronchi, hilum and fluid in the pleura do not.
"""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medseg.core.atomic import (
    part_prefix,
    read_json,
    remove_leftovers,
    write_json,
    write_text,
    writing_failed,
)
from medseg.core.errors import UserError
from medseg.core.progress import Progress
from medseg.core.segmentation import ClassInfo, Code, Segmentation
from medseg.jobs.executor import open_executor

if TYPE_CHECKING:
    from medseg.config import Phantom
    from medseg.data.ct_chest.scanner import Scan

CLASSES: tuple[ClassInfo, ...] = (
    ClassInfo("right lung", 1, (92, 158, 242), Code("3341006", "SCT", "Right lung"), "right"),
    ClassInfo("left lung", 2, (242, 168, 92), Code("44029006", "SCT", "Left lung"), "left"),
)
"""What the labels hold: sides are the patient's."""

VERSION = 5
"""Counts up when the same seed no longer makes the same patients; older cohorts are then made again."""

COLUMNS = ("case", "patient", "image", "label", "split")
TEST_SHARE, VAL_SHARE = 0.2, 0.1


def make_cohort(folder: Path, phantom: Phantom, workers: int = 2) -> Path:
    """Writes the cohort and returns its manifest; patients that are there already are not made again.

    folder/dicom/<patient>/*.dcm   one CT series a patient
    folder/labels/<case>.nii.gz    its lungs on the series' own grid, and <case>.json: how it was scanned
    folder/manifest.csv            case, patient, image (folder), label, split (train, val, test)

    The same seed makes the same voxels, whatever the number of workers. Raises UserError when a patient could not be
    written, e.g. because the disk is full.
    """
    names = [f"phantom-{phantom.seed}-{number:03d}" for number in range(phantom.cases)]
    missing = [number for number, name in enumerate(names) if not is_complete(folder, name)]

    def make(number: int) -> str:
        make_patient(folder, names[number], phantom.seed, number)
        return names[number]

    if missing:
        from threadpoolctl import threadpool_limits

        remove_leftovers(folder)
        # Workers are the threads here: with those of BLAS beside them two workers took a third more processor time.
        with (
            threadpool_limits(1),
            open_executor(workers) as pool,
            Progress("phantom", len(missing), "patients") as bar,
        ):
            for name in pool.map(make, missing):
                bar.advance(note=name)
    manifest = folder / "manifest.csv"
    splits = split_names(names, phantom.seed)
    rows = [(name, name, f"dicom/{name}", f"labels/{name}.nii.gz", splits[name]) for name in names]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    if not manifest.is_file() or manifest.read_text(encoding="utf-8") != text.getvalue():
        write_text(manifest, text.getvalue())
    return manifest


def split_names(names: list[str], seed: int) -> dict[str, str]:
    """Seven parts to train, one to choose by, two to test; at least one patient each."""
    order = np.random.default_rng([seed, 1]).permutation(len(names))
    n_test = max(1, round(TEST_SHARE * len(names)))
    n_val = max(1, round(VAL_SHARE * len(names)))
    parts = ["test"] * n_test + ["val"] * n_val + ["train"] * (len(names) - n_test - n_val)
    return {names[place]: part for place, part in zip(order, parts)}


def draw_scan(seed: int, number: int) -> Scan:
    """Patient `number` of a seed, in memory: HU, labels, grid."""
    from medseg.data.ct_chest.scanner import scan_person

    return scan_person(np.random.default_rng([seed, 0, number]))


def is_complete(folder: Path, name: str) -> bool:
    """Whether a patient's series, label and facts are all there and of this version."""
    try:
        facts = read_json(_facts_file(folder, name))
    except UserError:
        return False
    slices = sum(1 for _ in (folder / "dicom" / name).glob("*.dcm"))
    return (
        facts.get("version") == VERSION
        and slices == facts.get("slices")
        and _label_file(folder, name).is_file()
    )


def make_patient(folder: Path, name: str, seed: int, number: int) -> None:
    """Draws, scans and writes one patient; the facts come last and say that all else is whole."""
    scan = draw_scan(seed, number)
    _facts_file(folder, name).unlink(missing_ok=True)
    _write_series(scan, folder / "dicom" / name, name)
    _write_label(scan, _label_file(folder, name))
    facts = {**scan.facts, "slices": scan.geometry.shape[2], "seed": seed, "version": VERSION}
    write_json(_facts_file(folder, name), facts)


def _facts_file(folder: Path, name: str) -> Path:
    return folder / "labels" / f"{name}.json"


def _label_file(folder: Path, name: str) -> Path:
    return folder / "labels" / f"{name}.nii.gz"


def _write_series(scan: Scan, target: Path, name: str) -> None:
    from medseg.io.dicom.write_series import SeriesFacts, write_ct_series

    facts = SeriesFacts(
        study=name,
        series=name,
        description="phantom chest CT",
        kernel=str(scan.facts["kernel"]),
        rescale_slope=float(scan.facts["slope"]),
        rescale_intercept=float(scan.facts["intercept"]),
        padding_hu=scan.facts["padding_hu"],
        contrast_agent="simulated" if scan.facts["contrast"] else "",
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=part_prefix(), dir=target.parent))
    except OSError as err:
        raise writing_failed(err, target) from err
    try:
        write_ct_series(scan.hu, scan.geometry, part, patient=name, facts=facts)
        if target.exists():
            shutil.rmtree(target)
        part.chmod(0o755)
        part.rename(target)
    except OSError as err:
        raise writing_failed(err, target) from err
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_label(scan: Scan, target: Path) -> None:
    from medseg.io.doors import write_segmentation

    write_segmentation(Segmentation(scan.labels, scan.geometry, CLASSES), target)
