"""Discs of older systems name files in Latin-1: such names are read in letters, and no table or log stumbles over them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.config import Pipeline, Plan, System
from medseg.core.geometry import Geometry
from medseg.core.progress import keep_log, note
from medseg.core.run import RunFolder
from medseg.core.segmentation import ClassInfo
from medseg.data.cohort import cohort_key, find_cases, load_cohort, save_cohort
from medseg.io.dicom.write_series import write_ct_series
from medseg.model.folder import save_model
from medseg.predict.folder import predict_folder

SETTINGS = Pipeline.model_validate({"name": "predict", "system": "from-model", "compute": {"cores": 1}})


@pytest.fixture
def latin(tmp_path: Path) -> Path:
    """A folder whose name is no UTF-8, as an old disc has it."""
    folder = tmp_path / os.fsdecode(b"K\xf6hler, J\xfcrgen")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A threshold as a model folder."""
    system = System(name="threshold-otsu")
    plan = Plan(
        dims=3, in_channels=1, classes=[ClassInfo("bright", 1, (9, 9, 9)).as_json()], out_channels=2,
        spacing_mm=[1.0, 1.0, 1.0], intensity=[], image_order=1, patch_size=[8, 8, 8], batch_size=1,
    )  # fmt: skip
    save_model(tmp_path / "model", None, system=system, plan=plan)
    return tmp_path / "model"


def image() -> np.ndarray:
    array = np.full((9, 8, 6), -50, np.int16)
    array[2:6, 2:6, 1:4] = 300
    return array


def test_masks_are_named_in_letters_and_the_tables_are_whole(
    tmp_path: Path, latin: Path, model: Path
) -> None:
    for number in range(2):
        name = os.fsdecode(b"M\xfcller_%d.nii.gz" % number)
        nibabel.save(nibabel.Nifti1Image(image(), np.eye(4)), tmp_path / "plain.nii.gz")
        (tmp_path / "plain.nii.gz").rename(latin / name)
    result = predict_folder(model, latin, tmp_path / "out", SETTINGS)
    assert (result.done, result.failed) == (2, {})
    assert (tmp_path / "out" / "Müller_0.nii.gz").is_file()
    rows = json.loads((tmp_path / "out" / "manifest" / "manifest.json").read_text(encoding="utf-8"))["cases"]
    assert [row["case"] for row in rows] == ["Müller_0", "Müller_1"]
    assert "M\\udcfcller_0.nii.gz" in (tmp_path / "out" / "private" / "cases.csv").read_text("utf-8-sig")


def test_one_image_of_such_a_name_is_a_case(tmp_path: Path, latin: Path, model: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(image(), np.eye(4)), tmp_path / "plain.nii.gz")
    (tmp_path / "plain.nii.gz").rename(latin / os.fsdecode(b"\xc4.nii.gz"))
    predict_folder(model, latin / os.fsdecode(b"\xc4.nii.gz"), tmp_path / "out", SETTINGS)
    assert (tmp_path / "out" / "Ä.nii.gz").is_file()


def test_a_dicom_folder_of_such_a_name_goes_through_the_run_folder_and_back(
    tmp_path: Path, latin: Path
) -> None:
    grid = Geometry(image().shape, np.diag([-0.9, -1.1, 2.5, 1.0]))
    write_ct_series(image(), grid, latin)
    folder = RunFolder(tmp_path / "run")
    save_cohort(find_cases(SETTINGS.data, latin, cohort_key(folder)), folder)
    files = load_cohort(folder).rows[0].files
    assert len(files) == 6
    assert all(Path(file).is_file() for file in files)
    folder.sources.read_text(encoding="utf-8")


def test_the_log_takes_such_names(tmp_path: Path) -> None:
    keep_log(tmp_path / "run.log")
    try:
        note(os.fsdecode(b"J\xfcrgen"))
    finally:
        keep_log(None)
    assert "J\\udcfcrgen" in (tmp_path / "run.log").read_text(encoding="utf-8")
