"""Lungs by threshold: on made-up chests of known anatomy and on real CT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import UserError
from medseg.zoo.build import build

SPACING = (3.0, 3.0, 4.0)


def ball(grid: np.ndarray, centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    """An ellipsoid on a grid of millimetres."""
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) < 1


def chest(touching: bool = False, noise: float = 15.0) -> tuple[np.ndarray, np.ndarray]:
    """(HU, labels 1 right 2 left) of a plain chest on RAS axes: x grows to the patient's right."""
    shape = (110, 80, 70)
    grid = np.stack(
        np.meshgrid(*((np.arange(n) + 0.5) * s for n, s in zip(shape, SPACING, strict=True)), indexing="ij")
    )
    hu = np.full(shape, -1000.0)
    hu[ball(grid, (165, 120, 140), (150, 105, 1e6))] = 40
    gap = 44 if touching else 62
    right = ball(grid, (165 + gap, 125, 120), (48, 70, 100))
    left = ball(grid, (165 - gap, 125, 120), (45, 68, 100)) & ~right
    hu[right | left] = -840
    labels = np.zeros(shape, dtype=np.uint8)
    labels[right], labels[left] = 1, 2
    hu[ball(grid, (165, 45, 140), (22, 22, 1e6))] = 350
    trachea = ball(grid, (165, 110, 250), (9, 9, 1e6)) & (grid[2] > 190)
    hu[trachea] = -1000
    labels[trachea] = 0
    vessel = ball(grid, (165 + gap, 125, 120), (1e6, 6, 6)) & right
    hu[vessel] = 60
    hu[:, :6] = np.where(grid[1][:, :6] < 12, -300, hu[:, :6])
    return hu + np.random.default_rng(0).normal(0, noise, shape), labels


def lungs(hu: np.ndarray, spacing: tuple[float, ...] = SPACING, **parameters: object) -> np.ndarray:
    method = build("lung-threshold", dims=3, in_channels=1, classes=3, **parameters)
    return method.segment(hu[None], spacing)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


@pytest.mark.parametrize("touching", [False, True])
def test_each_lung_is_found_on_its_side_with_its_vessels(touching: bool) -> None:
    hu, truth = chest(touching)
    found = lungs(hu)
    for side in (1, 2):
        assert dice(found == side, truth == side) > 0.96


def test_a_mirrored_patient_gets_mirrored_names() -> None:
    hu, _ = chest()
    found, mirrored = lungs(hu), lungs(hu[::-1])
    swapped = np.array([0, 2, 1], dtype=np.uint8)[mirrored[::-1]]
    assert (found == swapped).mean() > 0.999


def test_the_windpipe_is_not_lung() -> None:
    hu, _ = chest()
    found = lungs(hu)
    assert not found[54:56, 35:38, 50:].any()


def test_air_around_the_patient_and_in_the_bowel_is_not_lung() -> None:
    hu, _ = chest()
    hu[40:70, 50:62, 2:8] = -1000
    assert not lungs(hu)[40:70, 50:62, 2:8].any()
    assert not lungs(hu)[:3].any()


def test_merged_lungs_are_one_class() -> None:
    hu, _ = chest()
    method = build("lung-threshold", dims=3, in_channels=1, classes=2, merge=True)
    assert method.classes == {1: "lung"}
    assert np.array_equal(method.segment(hu[None], SPACING) == 1, lungs(hu) > 0)


def test_a_crop_of_one_half_keeps_its_side() -> None:
    hu, truth = chest()
    for box, side in ((slice(52, 110), 1), (slice(0, 58), 2)):
        found = lungs(hu[box])
        assert dice(found == side, truth[box] == side) > 0.95


def test_fine_voxels_give_a_fine_outline() -> None:
    hu, truth = chest(noise=0)
    fine = np.repeat(np.repeat(hu, 4, axis=0), 4, axis=1)
    found = lungs(fine, (0.75, 0.75, 4.0))
    expected = np.repeat(np.repeat(truth, 4, axis=0), 4, axis=1)
    assert dice(found == 1, expected == 1) > 0.96
    assert dice(found == 2, expected == 2) > 0.96


def test_the_automatic_threshold_agrees_with_the_fixed_one() -> None:
    hu, _ = chest()
    assert dice(lungs(hu) > 0, lungs(hu, threshold_hu="auto") > 0) > 0.99


def test_a_ct_without_lungs_gives_an_empty_mask() -> None:
    hu, truth = chest()
    hu[truth > 0] = 40
    assert not lungs(hu).any()


def test_an_mr_image_is_refused_with_its_darkest_value() -> None:
    with pytest.raises(UserError, match=r"no voxel is darker than -400 HU \(the darkest is 0\)") as caught:
        lungs(np.zeros((8, 8, 8)))
    assert "Hounsfield" in caught.value.hint


def test_several_channels_are_refused() -> None:
    method = build("lung-threshold", dims=3, in_channels=2, classes=3)
    with pytest.raises(UserError, match="an image of 2 channels"):
        method.segment(np.full((2, 4, 4, 4), -900.0), (1, 1, 1))


@pytest.mark.parametrize(
    ("case", "values", "sides", "agreement"),
    [("lung_right", {1: 1}, {1}, 0.97), ("abdomen_3mm", {10: 2, 11: 2, 12: 1, 13: 1, 14: 1}, {1, 2}, 0.93)],
)
def test_real_lungs_agree_with_their_labels(
    shared_data: Path, case: str, values: dict[int, int], sides: set[int], agreement: float
) -> None:
    import nibabel as nib

    folder = shared_data / "small_ct_labelled"
    labels = "labels_lung" if case == "lung_right" else "labels_organs"
    image = nib.as_closest_canonical(nib.load(next((folder / "images").glob(f"{case}*"))))
    given = nib.as_closest_canonical(nib.load(next((folder / labels).glob(f"{case}*"))))
    stored = np.asarray(given.dataobj)
    truth = np.zeros(stored.shape, dtype=np.uint8)
    for value, side in values.items():
        truth[stored == value] = side
    found = lungs(np.asarray(image.dataobj), image.header.get_zooms()[:3])
    assert dice(found > 0, truth > 0) > agreement
    for side in sides:
        assert dice(found == side, truth == side) > agreement - 0.02


def test_a_real_contrast_ct_has_both_lungs_on_their_sides(shared_data: Path) -> None:
    import pydicom

    folder = shared_data / "chest_ct_dicom" / "thorax_siemens_sensation10_8mm"
    slices = sorted(
        (pydicom.dcmread(p) for p in folder.iterdir() if p.suffix != ".md"),
        key=lambda d: d.ImagePositionPatient[2],
    )
    rows = np.stack(
        [d.pixel_array[::2, ::2] * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in slices]
    )
    hu = rows.transpose(2, 1, 0)[::-1, ::-1]
    spacing = (2 * float(slices[0].PixelSpacing[1]), 2 * float(slices[0].PixelSpacing[0]), 8.0)
    found = lungs(hu, spacing)
    ml = [np.count_nonzero(found == side) * np.prod(spacing) / 1000 for side in (1, 2)]
    assert 900 < ml[0] < 1300, "the right lung holds a tumour"
    assert 1400 < ml[1] < 1800
    assert np.nonzero(found == 1)[0].mean() > np.nonzero(found == 2)[0].mean(), (
        "x grows to the patient's right"
    )


@pytest.mark.parametrize("number", [4, 6, 10, 12])
def test_phantom_lungs_are_found_in_whole_and_partial_scans(number: int) -> None:
    from medseg.core.geometry import reorient_array
    from medseg.data.phantom import draw_scan

    scan = draw_scan(5, number)
    ras, order, flips = scan.geometry.reoriented()
    hu, truth = (reorient_array(np.asarray(a), order, flips) for a in (scan.hu, scan.labels))
    found = lungs(hu, ras.spacing)
    for side in (1, 2):
        if (truth == side).any():
            assert dice(found == side, truth == side) > 0.85, (
                "dense disease is beyond a threshold, a wrong side is not"
            )
