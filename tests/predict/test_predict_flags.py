"""Flags: images unlike the training images and results unlike the training labels are named with the number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medseg.config import IntensityPlan, Plan
from medseg.core.case import Image
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation, side_pairs
from medseg.predict.flags import cut_off, input_flags, output_flags
from medseg.predict.measured import voxels_of

CLASSES = (
    ClassInfo("left lung", 1, (255, 0, 0), laterality="left"),
    ClassInfo("right lung", 2, (0, 255, 0), laterality="right"),
)
GRID = Geometry.from_spacing((40, 40, 40), (5.0, 5.0, 5.0))


def a_plan(scheme: str = "window", **changes: Any) -> Plan:
    spans = {"left lung": [500.0, 2000.0], "right lung": [600.0, 2500.0]}
    return Plan(dims=3, in_channels=1, classes=[c.as_json() for c in CLASSES], out_channels=3, patch_size=[16] * 3, batch_size=1,
                spacing_mm=[3.0] * 3, intensity=[IntensityPlan(scheme=scheme)], **{"volume_ml": spans, **changes})  # fmt: skip


def a_ct() -> np.ndarray:
    array = np.full((1, *GRID.shape), -1000, np.int16)
    array[:, 8:32, 8:32, :] = 40
    array[:, 12:18, 12:28, 8:32] = -850
    return array


def lungs(left: Any, right: Any, grid: Geometry = GRID) -> Segmentation:
    labels = np.zeros(grid.shape, np.uint8)
    labels[left], labels[right] = 1, 2
    return Segmentation(labels, grid, CLASSES)


LEFT, RIGHT = np.s_[8:16, 10:28, 8:32], np.s_[24:34, 10:28, 8:32]


def test_a_plausible_ct_with_plausible_lungs_has_no_flag() -> None:
    seg = lungs(LEFT, RIGHT)
    assert input_flags(Image(a_ct(), GRID, "CT"), a_plan()) == []
    assert output_flags(seg, voxels_of(seg), a_plan()) == []
    assert cut_off(seg, voxels_of(seg)) == {}


@pytest.mark.parametrize(
    ("array", "modality", "words"),
    [
        (np.abs(np.random.default_rng(0).normal(400, 200, (1, 40, 40, 40))), "", "Hounsfield"),
        (a_ct() + 1024, "CT", "Hounsfield"),
        (a_ct() / 2000, "", "Hounsfield"),
        (a_ct(), "MR", "the file says it is MR; the model was trained on CT"),
        (np.full((1, 40, 40, 40), -1000), "CT", "the image is empty"),
    ],
)
def test_an_image_that_is_no_ct_is_named(array: np.ndarray, modality: str, words: str) -> None:
    assert any(words in flag for flag in input_flags(Image(array, GRID, modality), a_plan()))


def test_a_ct_in_a_model_for_mr_is_named() -> None:
    plan = a_plan("zscore")
    assert any("trained on other images" in f for f in input_flags(Image(a_ct(), GRID, "CT"), plan))
    assert any("looks like a CT" in f for f in input_flags(Image(a_ct(), GRID), plan))


def test_thick_slices_are_named_with_their_axis() -> None:
    thick = Geometry.from_spacing((40, 40, 40), (3.0, 3.0, 15.0))
    assert any("15.0 mm along axis S" in flag for flag in input_flags(Image(a_ct(), thick), a_plan()))


@pytest.mark.parametrize(
    ("left", "right", "words"),
    [
        (np.s_[0:0], np.s_[0:0], "nothing was found"),
        (np.s_[0:0], RIGHT, "left lung was not found; in training 500 ml to"),
        (np.s_[8:9, 10:12, 8:10], RIGHT, "left lung has 0.5 ml"),
        (np.s_[8:16, 10:28, 8:12], RIGHT, "left lung and right lung differ 7.5 times"),
        (RIGHT, LEFT, "left lung lies to the right of right lung"),
    ],
)
def test_a_result_that_cannot_be_is_named(left: Any, right: Any, words: str) -> None:
    seg = lungs(left, right)
    assert any(words in flag for flag in output_flags(seg, voxels_of(seg), a_plan())), words


def test_sides_follow_the_patient_and_not_the_array() -> None:
    """The same body stored the other way round is not flagged; a header that was flipped is."""
    affine = np.array(GRID.affine)
    affine[0, 0], affine[0, 3] = -5.0, 195.0
    stored_left = lungs(RIGHT, LEFT, Geometry(GRID.shape, affine))
    assert output_flags(stored_left, voxels_of(stored_left), a_plan()) == []
    flipped = lungs(LEFT, RIGHT, Geometry(GRID.shape, affine))
    assert any("left-right" in flag for flag in output_flags(flipped, voxels_of(flipped), a_plan()))


def test_half_a_field_of_view_leaves_the_volume_unknown() -> None:
    """A lung that runs into the border has no volume, rather than a wrong one."""
    seg = lungs(np.s_[8:16, 10:28, 20:], np.s_[24:34, 10:28, 8:32])
    reasons = cut_off(seg, voxels_of(seg))
    assert set(reasons) == {"left lung"}
    assert "144 voxels lie on the border" in reasons["left lung"]


def test_pairs_are_found_by_side_and_name() -> None:
    kidney = ClassInfo("kidney_left", 3, (1, 1, 1), laterality="left")
    assert side_pairs((*CLASSES, kidney)) == [CLASSES]


@pytest.mark.parametrize(
    ("left", "right", "words"),
    [
        (np.s_[0:0], RIGHT, "left lung was not found, right lung was"),
        (LEFT, np.s_[0:0], "right lung was not found, left lung was"),
    ],
)
def test_a_missing_side_is_named_where_no_training_says_that_it_may_be(
    left: Any, right: Any, words: str
) -> None:
    seg = lungs(left, right)
    assert output_flags(seg, voxels_of(seg), a_plan(volume_ml={})) == [words]


def test_volumes_need_a_model_that_knows_some() -> None:
    seg = lungs(np.s_[8:10, 10:28, 8:32], np.s_[30:32, 10:28, 8:32])
    assert output_flags(seg, voxels_of(seg), a_plan(volume_ml={})) == []
