"""DICOM label files name their structures: a draft takes the names, and numbers that mean two things are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.check.folder import check_folder
from medseg.check.init import draft_pipeline
from medseg.config_file import load_pipeline
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.data.cohort import find_cases
from medseg.data.reading import read_label
from medseg.io.dicom.read import read_series
from medseg.io.dicom.seg import write_seg
from medseg.io.dicom.write_series import SeriesFacts, write_ct_series

SHAPE = (9, 8, 6)


def drawn(root: Path, patient: str, *names: str) -> None:
    """A series and its segmentation: a large liver, a small spleen, numbered in the order of `names`."""
    boxes = {"liver": np.s_[1:6, 1:6, 1:5], "spleen": np.s_[6:8, 6:8, 2:4]}
    array = np.zeros(SHAPE, np.uint8)
    for number, name in enumerate(names, 1):
        array[boxes[name.lower()]] = number
    image = np.arange(array.size, dtype=np.int16).reshape(SHAPE) - 200
    grid = Geometry(SHAPE, np.diag([-1.0, -1.0, 2.0, 1.0]))
    files = write_ct_series(
        image, grid, root / patient / "ct", patient=patient, facts=SeriesFacts(study=patient)
    )
    (root / patient / "seg").mkdir()
    classes = tuple(ClassInfo(name, n, (n, 99, 9)) for n, name in enumerate(names, 1))
    write_seg(
        Segmentation(array, read_series(files).geometry, classes), files, root / patient / "seg" / "a.dcm"
    )


def test_numbers_that_mean_two_structures_are_refused_where_no_class_is_named(tmp_path):
    drawn(tmp_path, "a", "liver", "spleen")
    drawn(tmp_path, "b", "Spleen", "Liver")
    with pytest.raises(UserError) as error:
        check_folder(tmp_path)
    assert "the label files number their structures in different orders" in error.value.what
    assert [sorted(fault.lower().split(" is ")[1].split(", ")) for fault in error.value.faults] == [
        ["liver", "spleen"]
    ] * 2
    assert "medseg init FOLDER" in error.value.hint


def test_equal_numbering_is_taken_as_classes_by_number(tmp_path):
    drawn(tmp_path, "a", "liver", "spleen")
    drawn(tmp_path, "b", "Liver")
    assert [c["name"] for c in check_folder(tmp_path)["classes"]] == ["class 1", "class 2"]


def test_the_draft_takes_the_names_and_each_case_gets_its_own_numbers_by_name(tmp_path):
    root = tmp_path / "tree"
    drawn(root, "a", "liver", "spleen")
    drawn(root, "b", "Spleen", "Liver")
    path = tmp_path / "draft.yaml"
    path.write_text(draft_pipeline(root))
    data = load_pipeline(path).data
    assert sorted(name.lower() for name in data.classes) == ["liver", "spleen"]
    assert "a DICOM label file is matched by name" in path.read_text()
    cohort = find_cases(data)
    liver = next(info.index for info in cohort.classes if info.name.lower() == "liver")
    volumes = [int((read_label(row, data, cohort.classes).labels == liver).sum()) for row in cohort.rows]
    assert volumes == [100, 100]
