"""DICOM segmentations and structure sets beside their series are its labels, matched by reference and by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.config import Data
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Code, Segmentation
from medseg.data.cohort import find_cases
from medseg.data.reading import read_label
from medseg.data.rows import CaseRow
from medseg.io.dicom.read import read_series
from medseg.io.dicom.rtstruct import write_rtstruct
from medseg.io.dicom.seg import write_seg
from medseg.io.dicom.write_series import SeriesFacts, write_ct_series

SHAPE = (9, 8, 6)
LIVER = ClassInfo("liver", 1, (9, 9, 9), Code("10200004", "SCT", "Liver"))
SPLEEN = ClassInfo("spleen", 2, (9, 99, 9), Code("78961009", "SCT", "Spleen"))
WRITERS = {"seg": write_seg, "rtstruct": write_rtstruct}


def labels() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[1:5, 2:6, 1:4] = 1
    array[6:8, 3:6, 2:5] = 2
    return array


def series(folder: Path, patient: str) -> tuple[list[Path], Geometry]:
    affine = np.diag([-0.9, -1.1, 2.5, 1.0])
    files = write_ct_series(
        labels().astype(np.int16),
        Geometry(SHAPE, affine),
        folder,
        patient=patient,
        facts=SeriesFacts(study=patient),
    )
    return files, read_series(files).geometry


def drawn(kind: str, folder: Path, patient: str, classes, values=(1, 2), name="drawn.dcm") -> Geometry:
    """A series with a label object in a folder of its own, whose classes come in the given order."""
    files, grid = series(folder / "ct", patient)
    array = np.zeros(SHAPE, np.uint8)
    for info, value in zip(classes, values):
        array[labels() == value] = info.index
    (folder / "results").mkdir(exist_ok=True)
    WRITERS[kind](Segmentation(array, grid, tuple(classes)), files, folder / "results" / name)
    return grid


@pytest.mark.parametrize("kind", WRITERS)
def test_a_label_object_beside_a_series_is_its_label(tmp_path, kind):
    grid = drawn(kind, tmp_path / "a", "CANARY^ONE", (LIVER, SPLEEN))
    series(tmp_path / "b" / "ct", "CANARY^TWO")
    cohort = find_cases(Data(classes={"liver": 1, "spleen": 2}), tmp_path, b"key")
    assert sorted(bool(row.labels) for row in cohort.rows) == [False, True]
    row = next(row for row in cohort.rows if row.labels)
    seg = read_label(row, Data(classes={"liver": 1, "spleen": 2}), cohort.classes)
    assert seg.geometry.same_grid(grid)
    np.testing.assert_array_equal(seg.labels, labels())
    assert "CANARY" not in str((cohort.notes, cohort.left_out))


@pytest.mark.parametrize("kind", WRITERS)
def test_numbers_follow_the_order_of_drawing_so_names_count(tmp_path, kind):
    other_spleen, other_liver = ClassInfo("spleen", 1, (9, 9, 9)), ClassInfo("liver", 2, (9, 9, 9))
    drawn(kind, tmp_path, "P", (other_spleen, other_liver), values=(2, 1))
    data = Data(classes={"liver": 1, "spleen": 2})
    cohort = find_cases(data, tmp_path)
    np.testing.assert_array_equal(read_label(cohort.rows[0], data, cohort.classes).labels, labels())


@pytest.mark.parametrize("kind", WRITERS)
def test_structures_of_other_names_are_left_out_and_counted(tmp_path, kind):
    drawn(kind, tmp_path, "P", (ClassInfo("couch", 1, (9, 9, 9)), ClassInfo("Liver", 2, (9, 9, 9))), (2, 1))
    data = Data(classes={"liver": 1})
    cohort = find_cases(data, tmp_path)
    seg = read_label(cohort.rows[0], data, cohort.classes)
    np.testing.assert_array_equal(seg.labels, labels() == 1)
    assert "1 drawn structures that are none of the classes were left out" in seg.provenance["notes"]


def test_a_structure_set_without_any_known_name_is_refused(tmp_path):
    grid = drawn(
        "rtstruct", tmp_path, "P", (ClassInfo("ROI-1", 1, (9, 9, 9)), ClassInfo("ROI-2", 2, (9, 9, 9)))
    )
    files = tuple(sorted(map(str, (tmp_path / "ct").iterdir())))
    row = CaseRow("x", "x", (files,), {"label": str(tmp_path / "results" / "drawn.dcm")})
    assert grid.shape == SHAPE
    with pytest.raises(UserError, match="none of its 2 structures is called like a class"):
        read_label(row, Data(classes={"liver": 1}), (LIVER,))


def test_of_two_label_objects_of_one_series_none_is_guessed(tmp_path):
    drawn("seg", tmp_path, "P", (LIVER, SPLEEN))
    drawn("rtstruct", tmp_path, "P", (LIVER, SPLEEN), name="other.dcm")
    cohort = find_cases(Data(), tmp_path)
    assert not cohort.rows[0].labels
    assert [why for _, why in cohort.left_out] == [
        "one of 2 label files of one series; name the right one in a manifest"
    ] * 2
