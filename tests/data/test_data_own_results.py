"""What medseg predicted is no reference: its own folders inside the data, and its segmentations that an archive returns."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.check.listing import listing_digest
from medseg.config import Data, Pipeline
from medseg.config_file import save_pipeline
from medseg.core.geometry import Geometry
from medseg.core.run import RunFolder, holds_results
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.data.cohort import cohort_key, find_cases
from medseg.io.dicom.read import read_series
from medseg.io.dicom.rtstruct import write_rtstruct
from medseg.io.dicom.scan import files_below
from medseg.io.dicom.seg import write_seg
from medseg.io.dicom.write_series import write_ct_series

SHAPE = (9, 8, 6)
WRITERS = {"seg": write_seg, "rtstruct": write_rtstruct}


def mask() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[2:6, 2:6, 1:4] = 1
    return array


def volumes(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        nib.save(nib.Nifti1Image(mask(), np.eye(4)), folder / f"{name}.nii.gz")


def study(folder: Path, kind: str, drawn: Path, algorithm: str) -> None:
    """A series, and a label object of it."""
    files = write_ct_series(mask().astype(np.int16), Geometry(SHAPE, np.diag([-0.9, -1.1, 2.5, 1])), folder)
    drawn.parent.mkdir(parents=True, exist_ok=True)
    seg = Segmentation(mask(), read_series(files).geometry, (ClassInfo("liver", 1, (9, 9, 9)),))
    WRITERS[kind](seg, files, drawn, algorithm=algorithm)


def make_run(folder: Path) -> None:
    folder.mkdir(parents=True)
    save_pipeline(
        Pipeline.model_validate({"name": "a", "system": "threshold-otsu"}),
        RunFolder(folder).pipeline_file,
        "1",
    )


def make_masks(folder: Path) -> None:
    (folder / "manifest").mkdir(parents=True)
    for name in ("manifest.json", "failed.csv"):
        (folder / "manifest" / name).write_text("{}")


def make_unfinished(folder: Path) -> None:
    folder.mkdir(parents=True)
    cohort_key(RunFolder(folder))


KINDS = {"run": make_run, "masks": make_masks, "call that has just begun": make_unfinished}


@pytest.mark.parametrize("kind", KINDS)
def test_folders_that_medseg_wrote_are_known(tmp_path, kind):
    KINDS[kind](tmp_path / "out")
    assert holds_results(tmp_path / "out")
    assert not holds_results(tmp_path)


def test_a_persons_own_files_of_these_names_are_not_taken_for_medsegs(tmp_path):
    (tmp_path / "manifest").mkdir()
    (tmp_path / "manifest" / "manifest.json").write_text("{}")
    (tmp_path / "pipeline.yaml").write_text("name: mine\n")
    (tmp_path / "private").mkdir()
    assert not holds_results(tmp_path)


def test_a_prediction_in_a_run_folder_below_the_study_is_not_its_label(tmp_path):
    make_run(tmp_path / "results")
    study(tmp_path / "ct", "seg", tmp_path / "results" / "predictions" / "a.dcm", "test")
    cohort = find_cases(Data(), tmp_path)
    assert [dict(row.labels) for row in cohort.rows] == [{}]
    assert cohort.left_out == ()
    assert any("a folder that medseg wrote is passed over" in note for note in cohort.notes)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_prediction_that_an_archive_returns_with_the_study_is_not_its_label(tmp_path, kind):
    study(tmp_path / "ct", kind, tmp_path / "ct" / "zz", "medseg 3d-u-net")
    cohort = find_cases(Data(), tmp_path)
    assert [dict(row.labels) for row in cohort.rows] == [{}]
    assert [reason for _, reason in cohort.left_out] == [
        "predicted by medseg, so no reference; a table of cases can name it as one"
    ]


def test_files_of_one_name_in_two_folders_are_counted_one_by_one(tmp_path):
    study(tmp_path / "ct", "seg", tmp_path / "ct" / "zz", "test")
    for folder in ("disc 1", "disc 2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "AUTORUN.INF").write_text("open=viewer.exe")
    assert len(dict(find_cases(Data(), tmp_path).left_out)) == 2


def test_predicted_masks_below_the_images_are_not_their_labels(tmp_path):
    volumes(tmp_path / "images", "a", "b")
    make_masks(tmp_path / "labels")
    volumes(tmp_path / "labels" / "x", "a", "b")
    for path in (tmp_path / "labels" / "x").iterdir():
        path.rename(tmp_path / "labels" / path.name)
    cohort = find_cases(Data(), tmp_path)
    assert [row.case for row in cohort.rows] == ["a", "b"]
    assert not any(row.labels for row in cohort.rows)
    assert any("predicted masks are no labels unless a table of cases names them" in n for n in cohort.notes)


def test_a_table_may_name_predicted_masks_as_labels(tmp_path):
    volumes(tmp_path / "images", "a")
    make_masks(tmp_path / "out")
    nib.save(nib.Nifti1Image(mask(), np.eye(4)), tmp_path / "out" / "a.nii.gz")
    (tmp_path / "manifest.csv").write_text("case,image,label\na,images/a.nii.gz,out/a.nii.gz\n")
    cohort = find_cases(Data(), tmp_path)
    assert Path(cohort.rows[0].labels["label"]).name == "a.nii.gz"


def test_the_folder_that_was_asked_for_is_read_whoever_wrote_it(tmp_path):
    make_masks(tmp_path / "out")
    nib.save(nib.Nifti1Image(mask(), np.eye(4)), tmp_path / "out" / "a.nii.gz")
    assert [row.case for row in find_cases(Data(), tmp_path / "out").rows] == ["a"]
    assert files_below(tmp_path / "out")


def test_results_inside_the_data_do_not_change_the_data(tmp_path):
    volumes(tmp_path / "images", "a")
    data = Data(root=str(tmp_path))
    before = listing_digest(data)
    make_run(tmp_path / "run")
    volumes(tmp_path / "run" / "predictions", "a")
    assert listing_digest(data) == before
    volumes(tmp_path / "more", "b")
    assert listing_digest(data) != before
