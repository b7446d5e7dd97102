"""The doors: formats by content and ending, hashes by content, and sentences for what does not fit."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.io.dicom.write_series import write_ct_series
from medseg.io.doors import (
    READABLE,
    content_hash,
    read_geometry,
    read_image,
    read_segmentation,
    stem_of,
    suffix_of,
    write_array,
    write_segmentation,
)
from medseg.io.names import in_letters, without_ending

SHAPE = (4, 5, 6)
GRID = Geometry.from_spacing(SHAPE, (1, 2, 3), (-7, 8, 9))
LABELS = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
CLASSES = (ClassInfo("liver", 1, (200, 10, 10)), ClassInfo("spleen", 2, (10, 10, 200)))


@pytest.mark.parametrize(
    ("name", "ending", "stem"),
    [
        ("a.nii.gz", ".nii.gz", "a"),
        ("Scan.v2.NII.GZ", ".nii.gz", "Scan.v2"),
        ("b.seg.nrrd", ".nrrd", "b"),
        ("IM0001", "", "IM0001"),
        ("c.tar.gz", ".gz", "c.tar"),
        (".hidden", "", ".hidden"),
        ("x.1.2.840.dcm", ".dcm", "x.1.2.840"),
    ],
)
def test_endings_and_stems(name, ending, stem):
    assert (suffix_of(name), stem_of(name)) == (ending, stem)


@pytest.mark.parametrize("name", ["m.nii.gz", "m.nii", "m.nrrd", "m.mha"])
def test_labels_survive_every_format_of_volumes(tmp_path, name):
    seg = Segmentation(LABELS, GRID, CLASSES)
    path = write_segmentation(seg, tmp_path / name)
    back = read_segmentation(path, CLASSES)
    np.testing.assert_array_equal(back.labels, LABELS)
    assert back.labels.dtype == np.uint8
    assert back.geometry.same_grid(GRID)
    assert back.classes == CLASSES
    assert read_geometry(path).same_grid(GRID)
    assert back.volume_ml(0) == pytest.approx((LABELS == 1).sum() * 0.006)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_without_classes_every_value_becomes_one(tmp_path):
    seg = Segmentation(LABELS.astype(np.int32) * 500, GRID)
    found = read_segmentation(write_segmentation(seg, tmp_path / "m.nii.gz"))
    assert [(c.name, c.index) for c in found.classes] == [("class 500", 500), ("class 1000", 1000)]


def test_near_whole_labels_are_rounded_with_a_note_and_others_refused_with_values_and_counts(tmp_path):
    near = LABELS.astype(np.float32) - 0.0001 * (LABELS == 2)
    seg = read_segmentation(write_array(near, GRID, tmp_path / "near.nii.gz"))
    np.testing.assert_array_equal(seg.labels, LABELS)
    assert seg.provenance["notes"][-1].startswith(f"{(LABELS == 2).sum()} voxels had values that are nearly")
    odd = LABELS.astype(np.float32)
    odd[0, 0, :3] = 0.5
    odd[0, 1, 0] = np.nan
    with pytest.raises(
        UserError, match=r"4 voxels are no whole numbers \(0.5 in 3 voxels, nan in 1 voxels\)"
    ):
        read_segmentation(write_array(odd, GRID, tmp_path / "odd.nii.gz"))


def test_a_mask_of_several_values_a_voxel_is_refused(tmp_path):
    write_array(np.stack([LABELS, LABELS]), GRID, tmp_path / "m.nrrd")
    with pytest.raises(UserError, match="holds 2 values a voxel"):
        read_segmentation(tmp_path / "m.nrrd")


@pytest.mark.parametrize(
    "name", ["ä ö.nii.gz", "肺.nrrd", "с пробелом.mha", "x" * 200 + ".nii.gz", "UPPER.NII.GZ"]
)
def test_names_of_any_kind_are_read_and_written(tmp_path, name):
    folder = tmp_path / "Export Thorax ü" / ("tief" * 30)
    path = write_segmentation(Segmentation(LABELS, GRID, CLASSES), folder / name)
    np.testing.assert_array_equal(read_segmentation(path).labels, LABELS)
    np.testing.assert_array_equal(read_image(path).array[0], LABELS)


def test_names_in_latin_1_are_read_in_letters(tmp_path):
    as_stored = os.fsdecode(b"M\xfcller.nii.gz")
    assert (stem_of(as_stored), stem_of("Müller.nii.gz"), stem_of("肺.mha")) == ("Müller", "Müller", "肺")
    assert without_ending(as_stored) == os.fsdecode(b"M\xfcller")
    assert in_letters("Ü".encode().decode("ascii", "surrogateescape")) == "Ü"


def test_a_dicom_file_without_an_ending_is_known_by_its_content(tmp_path):
    files = write_ct_series(LABELS.astype(np.int16), GRID, tmp_path / "a")
    shutil.copy(files[0], tmp_path / "IM0001")
    assert read_image(tmp_path / "IM0001").modality == "CT"


def test_hashes_follow_content_not_names_or_order(tmp_path):
    (tmp_path / "a").mkdir()
    for name, text in (("x", "1"), ("y", "2")):
        (tmp_path / "a" / name).write_text(text)
    (tmp_path / "p").write_text("2")
    (tmp_path / "q").write_text("1")
    assert content_hash([tmp_path / "p", tmp_path / "q"]) == content_hash(tmp_path / "a")
    (tmp_path / "q").write_text("3")
    assert content_hash([tmp_path / "p", tmp_path / "q"]) != content_hash(tmp_path / "a")
    assert content_hash(tmp_path / "p") == content_hash([tmp_path / "p"])


def test_strange_files_are_refused_with_what_can_be_read(tmp_path):
    (tmp_path / "a.docx").write_text("hello" * 200)
    with pytest.raises(UserError, match=r"is of a format that is not known \(.docx\)") as caught:
        read_image(tmp_path / "a.docx")
    assert all(ending in caught.value.hint for ending in READABLE)
    with pytest.raises(UserError, match="no such file"):
        read_image(tmp_path / "absent.nii.gz")
    with pytest.raises(UserError, match="2 of 2 files are missing"):
        read_image([tmp_path / "1.dcm", tmp_path / "2.dcm"])
    with pytest.raises(UserError, match="no file was given"):
        read_image([])
    with pytest.raises(UserError, match=r"cannot write the format '.nrd', did you mean .nrrd"):
        write_array(LABELS, GRID, tmp_path / "a.nrd")


@pytest.mark.parametrize("name", ["study.zip", "study.7z", "study.tar.gz"])
def test_an_archive_is_called_one_with_the_remedy(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04" + bytes(400))
    with pytest.raises(UserError, match="is an archive") as caught:
        read_image(tmp_path / name)
    assert caught.value.hint == "unpack it first"


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(UserError):
        write_segmentation(Segmentation(LABELS, GRID), tmp_path / "a.png")
    folder = tmp_path / "file"
    folder.write_text("in the way")
    with pytest.raises(UserError, match=r"a file stands where a folder has to be"):
        write_segmentation(Segmentation(LABELS, GRID), folder / "a.nii.gz")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_tables_of_files_do_not_load_heavy_libraries():
    import subprocess
    import sys

    code = (
        "import sys, medseg.io.doors, medseg.io.dicom.scan, medseg.io.dicom.seg, medseg.io.dicom.write_series;"
        "print([m for m in ('torch', 'SimpleITK', 'highdicom', 'pydicom', 'nibabel', 'PIL') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=root).strip() == "[]"


@pytest.mark.parametrize("read", [read_image, read_geometry, read_segmentation])
def test_a_file_that_may_not_be_read_is_no_damaged_file(tmp_path, monkeypatch, read):
    def refused(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    (tmp_path / "a.nii.gz").write_bytes(b"x")
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError) as error:
        read(tmp_path / "a.nii.gz")
    assert (error.value.what, error.value.where) == ("no permission to read it", "a.nii.gz")
