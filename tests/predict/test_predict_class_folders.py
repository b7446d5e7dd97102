"""Masks of classes that overlap lie in a folder each: names of classes lead nowhere else and never meet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.core.case import Image
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation, paint
from medseg.predict.outputs import class_folders, write_masks
from medseg.score.cases import read_prediction

GRID = Geometry((6, 5, 4), np.diag([1.0, 1.0, 2.0, 1.0]))


def named(*names: str) -> tuple[ClassInfo, ...]:
    return tuple(ClassInfo(name, number, (number, 0, 0)) for number, name in enumerate(names, 1))


def test_plain_names_stay_as_they_are() -> None:
    assert class_folders(named("left lung", "Leber ü 肝", "T1/T2")) == ["left lung", "Leber ü 肝", "T1_T2"]


@pytest.mark.parametrize("name", ["..", ".", "/", "", " . ", "../../a", "\0", "a\nb", "肝" * 100])
def test_no_name_of_a_class_leads_out_of_the_folder_of_masks(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / class_folders(named(name))[0]).mkdir(parents=True)
    assert [path.parent for path in out.iterdir()] == [out]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("names", [("a/b", "a:b"), ("Lung", "lung"), ("x" * 200 + "1", "x" * 200 + "2"), ("a_b-2", "a/b-2", "a:b")])  # fmt: skip
def test_no_two_classes_share_a_folder(names: tuple[str, ...]) -> None:
    assert len({folder.casefold() for folder in class_folders(named(*names))}) == len(names)


def test_no_class_takes_a_folder_of_medsegs_own() -> None:
    found = class_folders(named("manifest", "private", "Probabilities"))
    assert found == ["manifest-1", "private-2", "Probabilities-3"]


def test_masks_whose_names_meet_come_back_each_as_it_was(tmp_path: Path) -> None:
    classes = named("a/b", "a:b", "..")
    regions = np.random.default_rng(1).random((3, *GRID.shape)) > 0.5
    seg = Segmentation(paint(regions, classes), GRID, classes, regions)
    image = Image(np.zeros((1, *GRID.shape), np.int16), GRID, "CT", {}, ())
    names, troubles = write_masks(seg, image, "case", ["nifti"], tmp_path / "deep" / "out")
    assert troubles == []
    assert not list((tmp_path / "deep").glob("*.nii.gz"))
    found = read_prediction(tmp_path / "deep" / "out", {"case": "case", "files": names}, classes, True)
    assert np.array_equal(found.regions, regions)
