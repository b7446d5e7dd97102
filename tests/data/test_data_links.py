"""Studies that are linked together into a cohort instead of copied."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.check.listing import listing_digest
from medseg.config import Data, Pipeline
from medseg.config_file import save_pipeline
from medseg.core.folders import walk_data
from medseg.core.geometry import Geometry
from medseg.core.run import RunFolder
from medseg.data.cohort import find_cases
from medseg.io.dicom.write_series import SeriesFacts, write_ct_series

SHAPE = (9, 8, 6)


def linked_studies(place: Path, count: int = 3) -> Path:
    """A folder of links to `count` series, each of another patient; the folder of links is returned."""
    links = place / "cohort"
    links.mkdir(parents=True)
    for n in range(count):
        there = place / "archive" / f"study-{n}"
        voxels = np.full(SHAPE, 40 + n, np.int16)
        geometry = Geometry(SHAPE, np.diag([-0.9, -1.1, 2.5, 1]))
        write_ct_series(voxels, geometry, there, patient=f"p{n}", facts=SeriesFacts(study=str(n)))
        (links / f"patient-{n}").symlink_to(there, target_is_directory=True)
    return links


def test_a_dicom_tree_of_links_is_read_like_one_of_copies(tmp_path):
    cohort = find_cases(Data(), linked_studies(tmp_path))
    assert cohort.layout == "DICOM: 3 of 3 series"
    assert len(cohort.rows) == 3


@pytest.mark.parametrize("change", ["more", "other"])
def test_a_change_behind_a_link_is_noticed(tmp_path, change):
    data = Data(root=str(linked_studies(tmp_path)))
    before = listing_digest(data)
    assert listing_digest(data) == before
    study = tmp_path / "archive" / "study-1"
    if change == "more":
        (study / "extra.dcm").write_bytes(b"x")
    else:
        (study / "slice-0001.dcm").write_bytes(b"x")
    assert listing_digest(data) != before


def test_loops_of_links_end_and_a_folder_is_entered_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.nii").write_bytes(b"")
    (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b").symlink_to(tmp_path / "a", target_is_directory=True)
    found = [(place.name, files) for place, _, files in walk_data(tmp_path)]
    assert found == [(tmp_path.name, []), ("a", ["x.nii"])]


def test_a_link_to_a_run_of_ours_is_passed_over_and_said(tmp_path):
    place = tmp_path / "data"
    (place / "images").mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4)), place / "images" / "a.nii.gz")
    run = tmp_path / "run"
    run.mkdir()
    save_pipeline(
        Pipeline.model_validate({"name": "a", "system": "threshold-otsu"}), RunFolder(run).pipeline_file, "1"
    )
    (place / "earlier").symlink_to(run, target_is_directory=True)
    cohort = find_cases(Data(), place)
    assert [row.case for row in cohort.rows] == ["a"]
    assert any("a folder that medseg wrote is passed over" in note for note in cohort.notes)
