"""A study whose pictures cannot be placed is a failed case with its reason, never a gap in the counts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medseg.config import Data
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.data.cohort import find_cases
from medseg.io.dicom.write_series import SeriesFacts, write_ct_series


def study(folder: Path, patient: str, slices: int = 6, **changes: object) -> None:
    """A series of small slices; `changes`: tags that are set, or taken out where None."""
    voxels = np.random.default_rng(len(patient)).integers(-900, 300, (8, 8, slices)).astype(np.int16)
    files = write_ct_series(voxels, Geometry(voxels.shape, np.diag([-2.0, -2.0, 5.0, 1.0])), folder,
                            patient=patient, facts=SeriesFacts(study=patient))  # fmt: skip
    for path in files:
        header = pydicom.dcmread(path)
        for tag, value in changes.items():
            if value is None:
                delattr(header, tag)
            else:
                setattr(header, tag, value)
        header.save_as(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ImagePositionPatient": None}, "no position and orientation in space in 6 of its 6 pictures"),
        ({"ImageOrientationPatient": None}, "no position and orientation in space in 6 of its 6 pictures"),
        ({"PixelSpacing": None}, "no pixel spacing in 6 of its 6 pictures"),
        ({"PixelSpacing": [0, 0]}, r"pixel spacing [0.0, 0.0] mm in 6 of its 6 pictures"),
    ],
)
def test_a_study_without_place_is_counted_as_failed(tmp_path, changes, reason):
    study(tmp_path / "a", "one")
    study(tmp_path / "b", "two", **changes)
    cohort = find_cases(Data(), tmp_path)
    assert [bool(row.trouble) for row in cohort.rows] == [False, True]
    assert reason in cohort.rows[1].trouble
    assert "export the study again" in cohort.rows[1].trouble
    assert not any("two" in row.case or "two" in row.patient for row in cohort.rows), "names are hashed"
    assert cohort.left_out == ()


def test_a_few_pictures_without_place_are_no_case(tmp_path):
    study(tmp_path / "a", "one")
    study(tmp_path / "b", "two", slices=2, ImagePositionPatient=None)
    cohort = find_cases(Data(), tmp_path)
    assert len(cohort.rows) == 1
    assert [reason for _, reason in cohort.left_out] == ["no position and orientation in space"] * 2


def test_a_folder_of_films_says_why_there_is_no_volume(tmp_path):
    study(tmp_path, "one", Modality="CR", ImagePositionPatient=None, PixelSpacing=None)
    with pytest.raises(UserError, match="none of 6 files here is a slice of a volume") as caught:
        find_cases(Data(), tmp_path)
    assert "6 x CR: no position and orientation in space" in caught.value.faults
    assert "PNG, JPEG or TIFF" in caught.value.hint


def test_a_tie_in_one_study_offers_each_series(tmp_path):
    from medseg.core.errors import Question

    for name in ("a", "b"):
        voxels = np.random.default_rng(ord(name)).integers(-900, 300, (8, 8, 6)).astype(np.int16)
        write_ct_series(voxels, Geometry(voxels.shape, np.diag([-2.0, -2.0, 5.0, 1.0])), tmp_path / name,
                        patient="P", facts=SeriesFacts(series=name))  # fmt: skip
    with pytest.raises(Question) as caught:
        find_cases(Data(), tmp_path)
    settings = [setting for _, setting in caught.value.choices]
    assert len(settings) == 3
    assert settings[2] == "data.select.tie=all"
    from medseg.check.folder import settings_from

    assert len(find_cases(settings_from([settings[0]]), tmp_path).rows) == 1


def test_a_tie_among_several_studies_names_no_single_series(tmp_path):
    from medseg.core.errors import Question

    study(tmp_path / "c", "other")
    for name in ("a", "b"):
        voxels = np.random.default_rng(ord(name)).integers(-900, 300, (8, 8, 6)).astype(np.int16)
        write_ct_series(voxels, Geometry(voxels.shape, np.diag([-2.0, -2.0, 5.0, 1.0])), tmp_path / name,
                        patient="P", facts=SeriesFacts(series=name))  # fmt: skip
    with pytest.raises(Question) as caught:
        find_cases(Data(), tmp_path)
    assert [setting for _, setting in caught.value.choices] == ["data.select.tie=all"]


@pytest.mark.parametrize(
    "spoil", [lambda path: path.write_bytes(b""), lambda path: path.write_bytes(path.read_bytes()[:-40])]
)
def test_a_slice_at_the_end_that_cannot_be_read_is_said(tmp_path, spoil):
    study(tmp_path / "a", "one")
    study(tmp_path / "b", "two")
    assert not any("may lack slices" in note for note in find_cases(Data(), tmp_path).notes)
    spoil(max((tmp_path / "b").iterdir(), key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2]))
    cohort = find_cases(Data(), tmp_path)
    assert (
        "1 files among the slices of 1 series cannot be read: those volumes may lack slices at an end"
        in cohort.notes
    )
    assert len(cohort.rows) == 2


def test_a_pipe_and_links_that_lead_nowhere_or_back_are_not_waited_on(tmp_path):
    study(tmp_path / "one", "ABC")
    for file in (tmp_path / "one").iterdir():
        file.rename(file.with_suffix(""))
    os.mkfifo(tmp_path / "a pipe")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "one" / "again").symlink_to(tmp_path)
    cohort = find_cases(Data(), tmp_path)
    assert len(cohort.rows) == 1
    assert len(cohort.rows[0].images[0]) == 6
