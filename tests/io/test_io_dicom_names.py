"""Names of patients and classes in what is written for a series: every script, every length, nothing mixed up."""

from __future__ import annotations

from dataclasses import replace

import highdicom
import numpy as np
import pydicom
import pytest

from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Code, Segmentation
from medseg.io.dicom.class_names import labelled, match
from medseg.io.dicom.read_rtstruct import read_rtstruct
from medseg.io.dicom.rtstruct import write_rtstruct
from medseg.io.dicom.seg import write_fractions, write_seg
from medseg.io.dicom.write_series import write_ct_series
from medseg.io.doors import read_segmentation

SHAPE = (24, 20, 6)
GRID = Geometry(SHAPE, np.diag([-1.0, -1.0, 2.0, 1.0]))
LONG = "lower lobe of the left lung with the part that was resected in an operation, "
AWKWARD = (
    "Leber ü", "肝臓", 'a "b" c', "T1\\T2", "T1/T2", "tab\tline\n", " blanks ", "a^b=c", LONG + "1", LONG + "2", "Lung", "lung"
)  # fmt: skip


def named(*names: str) -> Segmentation:
    labels = np.zeros(SHAPE, np.uint8)
    for number in range(len(names)):
        labels[2 * number : 2 * number + 1 + number % 2, 3 : 9 + number, 1:5] = number + 1
    return Segmentation(labels, GRID, tuple(ClassInfo(n, k, (9, k, 0)) for k, n in enumerate(names, 1)))


def series(folder, charset="ISO_IR 192", patient="Phantom^Made"):
    files = write_ct_series(np.zeros(SHAPE, np.int16), GRID, folder / "series")
    for file in files:
        header = pydicom.dcmread(file)
        header.SpecificCharacterSet, header.PatientName = charset, patient
        header.save_as(file)
    return files


def written(kind, seg, files, path):
    if kind == "rtstruct":
        return write_rtstruct(seg, files, path)
    if kind == "fractional":
        return write_fractions(seg, lambda n: seg.mask(n).astype(np.float32), files, path)
    return write_seg(seg, files, path, kind=kind)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_classes_of_any_name_come_back_each_as_it_was(tmp_path, kind):
    seg = named(*AWKWARD)
    path = written(kind, seg, series(tmp_path), tmp_path / "a.dcm")
    found = read_segmentation(path, seg.classes, GRID)
    assert np.array_equal(found.labels, seg.labels)
    labels = {
        s: highdicom.seg.segread(path).get_segment_description(s).segment_label
        for s in range(1, len(AWKWARD) + 1)
    }
    assert len(set(labels.values())) == len(AWKWARD)
    assert all(
        0 < len(label) <= 64 and "\\" not in label and label.isprintable() for label in labels.values()
    )


def test_structures_of_any_name_come_back_each_as_it_was(tmp_path):
    seg = named(*AWKWARD)
    path = written("rtstruct", seg, series(tmp_path), tmp_path / "a.dcm")
    found = read_rtstruct(path, GRID)
    for info in found.classes:
        place = match(info, seg.classes)
        assert np.array_equal(found.mask(found.classes.index(info)), seg.mask(place))


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "fractional", "rtstruct"])
@pytest.mark.parametrize(
    ("charset", "patient"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO_IR 6", "Mueller^Joerg"),
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("GB18030", "王^小东"),
    ],
)
def test_a_series_in_any_character_set_carries_classes_in_every_script(tmp_path, kind, charset, patient):
    path = written(kind, named("肝臓", "Leber ü"), series(tmp_path, charset, patient), tmp_path / "a.dcm")
    made = pydicom.dcmread(path)
    assert made.PatientName == patient
    if kind == "rtstruct":
        names = [structure.ROIName for structure in made.StructureSetROISequence]
    else:
        names = [segment.SegmentLabel for segment in made.SegmentSequence if segment.SegmentNumber]
    assert names == ["肝臓", "Leber ü"]


def test_names_are_given_in_order_and_stay_where_classes_are_left_out(tmp_path):
    seg = named(LONG + "1", LONG + "2")
    seg = replace(seg, labels=np.where(seg.labels == 2, seg.labels, 0))
    path = written("BINARY", seg, series(tmp_path), tmp_path / "a.dcm")
    found = read_segmentation(path, seg.classes, GRID)
    assert np.array_equal(found.labels, seg.labels)


def test_names_of_dicom_are_apart_however_they_are_chosen():
    names = ("a\\b", "a/b", "a/b (2)", "a/b (1)", "x" * 70, "x" * 64, "x" * 60 + " (6)", "", "\n")
    classes = tuple(ClassInfo(name, number, (0, 0, 0)) for number, name in enumerate(names, 1))
    held = [info.name for info in labelled(classes)]
    assert len(set(held)) == len(held)
    assert max(map(len, held)) == 64
    assert [match(info, classes) for info in labelled(classes)] == list(range(len(classes)))


def test_a_segment_is_matched_by_its_letters_before_its_code():
    lung = Code("39607008", "SCT", "Lung structure")
    classes = (ClassInfo("lung", 1, (0, 0, 0)), ClassInfo("Lung", 2, (0, 0, 0), lung))
    assert match(ClassInfo("Lung", 7, (0, 0, 0)), classes) == 1
    assert match(ClassInfo("lung", 7, (0, 0, 0), lung), classes) == 0
    assert match(ClassInfo("LUNG", 7, (0, 0, 0), lung), classes) == 1
    assert match(ClassInfo("LUNG", 7, (0, 0, 0)), classes) is None
