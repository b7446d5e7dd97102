"""Phantom patients: their lungs lie where lungs lie, their grids are those of scanners, their files read back."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from medseg.config import Phantom
from medseg.core.atomic import part_prefix
from medseg.core.errors import UserError
from medseg.data import phantom
from medseg.data.ct_chest.chest import draw_chest
from medseg.data.ct_chest.scanner import VIEWS, Scan, draw_view
from medseg.io.doors import read_image, read_segmentation

COHORT = Phantom(cases=3, seed=11)


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    return [phantom.draw_scan(seed=5, number=number) for number in range(6)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of three patients."""
    return phantom.make_cohort(tmp_path_factory.mktemp("Köhler 胸部 CT"), COHORT, workers=1)


def rows(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(encoding="utf-8") as table:
        return list(csv.DictReader(table))


def centre_mm(scan: Scan, index: int) -> np.ndarray:
    return scan.geometry.to_world(np.argwhere(scan.labels == index)).mean(axis=0)


def both_lungs(scans: list[Scan]) -> list[Scan]:
    return [scan for scan in scans if min(np.count_nonzero(scan.labels == k) for k in (1, 2)) > 500]


def test_the_right_lung_lies_to_the_patients_right(scans):
    shown = both_lungs(scans)
    assert len(shown) >= 3
    for scan in shown:
        assert centre_mm(scan, 1)[0] > centre_mm(scan, 2)[0] + 60


def test_class_one_is_the_right_lung_and_both_carry_their_codes():
    by_index = {info.index: info for info in phantom.CLASSES}
    assert (by_index[1].name, by_index[1].laterality, by_index[1].code.value) == (
        "right lung",
        "right",
        "3341006",
    )
    assert (by_index[2].name, by_index[2].laterality, by_index[2].code.value) == (
        "left lung",
        "left",
        "44029006",
    )


def test_right_and_left_lung_differ_in_volume(scans):
    shares = []
    for scan in both_lungs(scans):
        right, left = (np.count_nonzero(scan.labels == k) for k in (1, 2))
        assert right != left
        shares.append(abs(right - left) / (right + left))
    assert np.mean(shares) > 0.02


def test_lungs_are_dark_air_is_darker_and_bodies_have_bone(scans):
    medians = [np.median(scan.hu[scan.labels > 0]) for scan in both_lungs(scans)]
    # Diseased bases in thick slices are half tissue; most lungs are not.
    assert -960 < np.median(medians) < -600
    assert max(medians) < -400
    for scan in both_lungs(scans):
        assert scan.hu.min() >= -2000
        assert scan.hu.max() <= 3071
        assert np.percentile(scan.hu, 99.5) > 150


def test_the_heart_pushes_the_left_lung_back(scans):
    # Level with the heart the front of the left lung lies further from the midline than that of the right.
    gaps = []
    for scan in both_lungs(scans):
        points = {k: scan.geometry.to_world(np.argwhere(scan.labels == k)) for k in (1, 2)}
        middle = 0.5 * (points[1][:, 0].min() + points[2][:, 0].max())
        gaps.append((middle - np.median(points[2][:, 0])) - (np.median(points[1][:, 0]) - middle))
    assert np.mean(gaps) > -30


def test_grids_differ_in_order_spacing_tilt_and_view():
    rng = np.random.default_rng(1)
    views = [draw_view(draw_chest(rng), rng) for _ in range(80)]
    assert len({(view.axes, view.signs) for view in views}) >= 8
    assert {view.name for view in views} == set(VIEWS)
    assert {view.axes[2] for view in views} == {0, 1, 2}
    tilted = [view for view in views if not np.array_equal(view.turn, np.eye(3))]
    assert 15 < len(tilted) < 60
    angles = [np.degrees(np.arccos((np.trace(view.turn) - 1) / 2)) for view in tilted]
    assert max(angles) <= 15.001
    thickest = [view.spacing_mm[view.axes[2]] for view in views]
    finest = [min(view.spacing_mm) for view in views]
    assert max(thickest) > 5
    assert min(finest) < 1.3


def test_grids_are_right_handed_as_dicom_sorts_slices(scans):
    assert all(np.linalg.det(scan.geometry.affine) > 0 for scan in scans)


def test_a_scan_stays_small(scans):
    assert all(scan.hu.nbytes < 25e6 for scan in scans)
    assert sum(VIEWS.values()) == pytest.approx(1)


def test_the_same_seed_makes_the_same_patient_and_another_another(scans):
    first, again = scans[0], phantom.draw_scan(seed=5, number=0)
    assert np.array_equal(first.hu, again.hu)
    assert np.array_equal(first.labels, again.labels)
    assert np.array_equal(first.geometry.affine, again.geometry.affine)
    assert first.hu.shape != scans[1].hu.shape or not np.array_equal(first.hu, scans[1].hu)


def test_the_series_reads_back_as_it_was_drawn(cohort):
    for number, row in enumerate(rows(cohort)):
        scan = phantom.draw_scan(COHORT.seed, number)
        image = read_image(cohort.parent / row["image"])
        image.geometry.require_same_grid(scan.geometry, "series", "phantom", row["case"])
        assert image.modality == "CT"
        # Readers put air where the header says padding.
        assert np.abs(image.array[0] - np.maximum(scan.hu, -1024)).max() <= 0.5


def test_labels_lie_on_the_grid_of_their_series(cohort):
    for row in rows(cohort):
        label = read_segmentation(cohort.parent / row["label"], phantom.CLASSES)
        image = read_image(cohort.parent / row["image"])
        assert label.geometry.same_grid(image.geometry)
        assert set(np.unique(label.labels)) <= {0, 1, 2}
        assert np.median(image.array[0][label.labels > 0]) < -600


def test_the_manifest_names_relative_paths_and_whole_patients(cohort):
    table = rows(cohort)
    assert list(table[0]) == list(phantom.COLUMNS)
    assert sorted(row["split"] for row in table) == ["test", "train", "val"]
    assert len({row["patient"] for row in table}) == 3
    for row in table:
        assert not Path(row["image"]).is_absolute()
        assert (cohort.parent / row["image"]).is_dir()
        assert (cohort.parent / row["label"]).is_file()


def test_headers_and_facts_hold_no_paths_and_no_real_person(cohort):
    import pydicom

    for row in rows(cohort):
        header = pydicom.dcmread(next((cohort.parent / row["image"]).glob("*.dcm")))
        assert str(header.PatientName) == "Phantom^Made"
        assert header.PatientID == row["patient"]
        assert str(cohort.parent.name) not in str(header)
    for file in [cohort, *cohort.parent.glob("labels/*.json")]:
        assert str(cohort.parent) not in file.read_text(encoding="utf-8")


def test_a_whole_cohort_is_not_made_again(cohort):
    before = {path: path.stat().st_mtime_ns for path in cohort.parent.rglob("*") if path.is_file()}
    assert phantom.make_cohort(cohort.parent, COHORT, workers=2) == cohort
    assert {path: path.stat().st_mtime_ns for path in cohort.parent.rglob("*") if path.is_file()} == before


def test_a_half_made_cohort_is_completed(cohort, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(cohort.parent, folder)
    names = [row["case"] for row in rows(cohort)]
    next((folder / "dicom" / names[1]).glob("*.dcm")).unlink()
    (folder / "labels" / f"{names[2]}.nii.gz").unlink()
    (folder / "manifest.csv").unlink()
    left = folder / "dicom" / f"{part_prefix()}of-a-killed-call"
    left.mkdir()
    os.utime(left, (1.0, 1.0))
    made: list[str] = []
    real = phantom.make_patient

    def noted(place: Path, name: str, seed: int, number: int) -> None:
        made.append(name)
        real(place, name, seed, number)

    monkeypatch.setattr(phantom, "make_patient", noted)
    phantom.make_cohort(folder, COHORT, workers=1)
    assert made == names[1:]
    assert all(phantom.is_complete(folder, name) for name in names)
    for name in names:
        for there, here in zip(
            sorted((cohort.parent / "dicom" / name).iterdir()), sorted((folder / "dicom" / name).iterdir())
        ):
            assert there.read_bytes() == here.read_bytes()
    assert not list(folder.rglob(".part-*"))


def test_a_cohort_of_an_older_version_is_made_again(cohort, monkeypatch):
    monkeypatch.setattr(phantom, "VERSION", phantom.VERSION + 1)
    assert not phantom.is_complete(cohort.parent, rows(cohort)[0]["case"])


def test_a_patient_that_fails_stops_with_a_sentence_and_leaves_no_half_series(tmp_path, scans, monkeypatch):
    monkeypatch.setattr(phantom, "draw_scan", lambda seed, number: scans[number])
    (tmp_path / "dicom").write_text("a file where a folder should go")
    with pytest.raises(UserError, match=r"dicom: a file stands where a folder has to be"):
        phantom.make_cohort(tmp_path, Phantom(cases=3, seed=1), workers=1)
    assert not (tmp_path / "manifest.csv").exists()


@pytest.mark.parametrize("cases", [3, 10, 24, 101])
def test_the_split_gives_seven_parts_one_and_two(cases):
    names = [f"p{number}" for number in range(cases)]
    parts = list(phantom.split_names(names, seed=2).values())
    assert min(parts.count(part) for part in ("train", "val", "test")) >= 1
    assert parts.count("test") == max(1, round(0.2 * cases))
    assert phantom.split_names(names, seed=2) == phantom.split_names(names, seed=2)
