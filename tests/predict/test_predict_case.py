"""One image through the whole of prediction: the result lies where the image lies, whatever the plan and the file."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from medseg.config import IntensityPlan, Plan, Predict, System
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry, reorient_array
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import Model
from medseg.predict.case import Predictor, predict_case
from medseg.predict.measured import measured

LEFT = ClassInfo("left ball", 3, (255, 0, 0), laterality="left")
RIGHT = ClassInfo("right box", 7, (0, 255, 0), laterality="right")


class Bands(torch.nn.Module):
    """Says background at 0, the ball at -100, the box at 100: an ideal network for a piecewise constant image."""

    def __init__(self, *centres: float) -> None:
        super().__init__()
        self.register_buffer("centres", torch.tensor(centres or (0.0, -100.0, 100.0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (1, -1, *[1] * (x.ndim - 2))
        return -(x - self.centres.reshape(shape)).abs()


def a_model(net: Any = None, **changes: Any) -> Model:
    plan = Plan(
        **{
            "dims": 3,
            "in_channels": 1,
            "classes": [LEFT.as_json(), RIGHT.as_json()],
            "out_channels": 3,
            "spacing_mm": [1.3, 1.3, 1.3],
            "intensity": [IntensityPlan(scheme="none")],
            "image_order": 1,
            "patch_size": [24, 24, 24],
            "batch_size": 1,
            **changes,
        }
    )
    classes = tuple(ClassInfo.from_json(c) for c in plan.classes)
    return Model((net or Bands()).eval(), None, plan, classes, System(name="3d-u-net"), "f00d" * 16, {})


def phantom(geometry: Geometry, middle: Any = None) -> np.ndarray:
    """0, -100 (a ball) and 100 (a box) by the place in mm, so that every grid shows the same body."""
    places = geometry.to_world(np.moveaxis(np.indices(geometry.shape), 0, -1))
    corners = geometry.corners()
    middle = (corners.min(0) + corners.max(0)) / 2 if middle is None else middle
    apart = places - middle
    ball = np.linalg.norm(apart - (-9, 2, 1), axis=-1) < 9
    box = (np.abs(apart - (10, -3, 2)) < (6, 8, 9)).all(-1)
    return np.where(ball, -100, np.where(box, 100, 0)).astype(np.float32)


def labels_of(values: np.ndarray) -> np.ndarray:
    return np.where(values < 0, LEFT.index, np.where(values > 0, RIGHT.index, 0)).astype(np.uint8)


def dice(a: np.ndarray, b: np.ndarray, index: int) -> float:
    return float(2 * np.sum((a == index) & (b == index)) / (np.sum(a == index) + np.sum(b == index)))


UPRIGHT = Geometry.from_spacing((50, 44, 40), (1.0, 1.0, 1.2), (-20, 5, 30))


@pytest.mark.parametrize("seed", range(6))
def test_the_phantom_survives_random_plans(seed: int) -> None:
    """An ideal network gives the phantom back on its own grid: nothing shifts, whatever the plan."""
    rng = np.random.default_rng(seed)
    model = a_model(
        spacing_mm=[float(s) for s in rng.uniform(0.6, 1.4, 3)],
        crop=str(rng.choice(["none", "nonzero"])),
        image_order=int(rng.choice([1, 3])),
        patch_size=[int(n) for n in rng.integers(12, 40, 3)],
    )
    values = phantom(UPRIGHT)
    settings = Predict(overlap=float(rng.uniform(0.1, 0.6)), batch_size=2)
    seg = predict_case(model, Image(values[None], UPRIGHT), settings)
    for info in model.classes:
        assert dice(seg.labels, labels_of(values), info.index) >= 0.98


def all_orientations() -> list[Geometry]:
    found = []
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        for signs in product((1, -1), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = UPRIGHT.affine[:3, list(order)] * signs
            shape = tuple(UPRIGHT.shape[o] for o in order)
            for column, sign in enumerate(signs):
                if sign < 0:
                    affine[:3, 3] -= affine[:3, column] * (shape[column] - 1)
            affine[:3, 3] += UPRIGHT.affine[:3, 3]
            found.append(Geometry(shape, affine))
    return found


def test_one_volume_stored_in_48_orders_gets_the_same_labels() -> None:
    model = a_model(spacing_mm=[1.7, 1.6, 1.5], crop="nonzero", patch_size=[40, 40, 40])
    values = phantom(UPRIGHT)
    expected = predict_case(model, Image(values[None], UPRIGHT)).labels
    for stored in all_orientations():
        turned, order, flips = stored.reoriented()
        assert turned.same_grid(UPRIGHT)
        back = [int(n) for n in np.argsort(order)]
        array = np.flip(values, flips).transpose(back) if flips else values.transpose(back)
        assert array.shape == stored.shape
        seg = predict_case(model, Image(np.ascontiguousarray(array)[None], stored))
        assert seg.geometry is stored
        assert np.array_equal(reorient_array(seg.labels, order, flips), expected), stored.axis_codes


@pytest.mark.parametrize("degrees", [5, 15])
def test_a_sheared_grid_gets_its_labels_back_on_itself(degrees: float) -> None:
    affine = np.array(UPRIGHT.affine)
    affine[1, 2] = affine[2, 2] * np.tan(np.radians(degrees))
    sheared = Geometry(UPRIGHT.shape, affine)
    values = phantom(sheared)
    seg = predict_case(a_model(spacing_mm=[0.8, 0.8, 0.8]), Image(values[None], sheared))
    assert seg.geometry is sheared
    for index in (3, 7):
        assert dice(seg.labels, labels_of(values), index) >= 0.98
        volume = np.sum(seg.labels == index) / np.sum(labels_of(values) == index)
        assert abs(volume - 1) < 0.015


def test_an_oblique_anisotropic_grid() -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)) * 0.3 + np.eye(3))
    affine = np.eye(4)
    affine[:3, :3] = turn * (0.5, 0.5, 5.0)
    geometry = Geometry((96, 90, 10), affine)
    values = phantom(geometry)
    seg = predict_case(a_model(spacing_mm=[0.5, 0.5, 5.0]), Image(values[None], geometry))
    assert min(dice(seg.labels, labels_of(values), i) for i in (3, 7)) >= 0.98


@pytest.mark.parametrize("shape", [(50, 44, 1), (50, 44, 2), (1, 1, 1)])
def test_one_and_two_slices(shape: tuple[int, ...]) -> None:
    geometry = Geometry.from_spacing(shape, (1.0, 1.0, 5.0), (-25, -22, 0))
    values = phantom(geometry, (0, 0, 0))
    seg = predict_case(a_model(spacing_mm=[1.0, 1.0, 5.0]), Image(values[None], geometry))
    assert np.array_equal(seg.labels, labels_of(values))


def test_outside_the_body_is_background() -> None:
    """What the crop cut away is background, also for a network that calls everything a class."""

    class Always(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x * 0, x * 0 + 1, x * 0], 1)

    values = phantom(UPRIGHT)
    seg = predict_case(a_model(Always(), crop="nonzero"), Image(values[None], UPRIGHT))
    hit = np.argwhere(values != 0)
    box = tuple(slice(a, b + 1) for a, b in zip(hit.min(0), hit.max(0)))
    assert (seg.labels[box] == LEFT.index).all()
    seg.labels[box] = 0
    assert not seg.labels.any()


@pytest.mark.parametrize("step", [[2.0, 3.0], [2.8125, 3.0]])
def test_photographs_on_a_coarser_grid_come_back_on_their_pixels(step: list[float]) -> None:
    model = a_model(dims=2, spacing_mm=None, spacing_px=step, patch_size=[16, 16], mirror_axes=[])
    values = np.zeros((90, 120), np.float32)
    values[12:36, 18:60] = 100
    values[60:84, 72:114] = -100
    seg = predict_case(model, Image(values[None], Geometry.pixels((90, 120))))
    assert seg.labels.shape == (90, 120)
    assert seg.geometry.unit == "px"
    for index in (LEFT.index, RIGHT.index):
        assert dice(seg.labels, labels_of(values), index) > 0.97
        middle = [np.argwhere(a == index).mean(0) for a in (seg.labels, labels_of(values))]
        assert np.abs(middle[0] - middle[1]).max() < 0.3


def test_photographs_stay_on_their_pixels() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(-1, 2, (37, 52)).astype(np.float32) * 100
    model = a_model(dims=2, spacing_mm=None, patch_size=[16, 24])
    seg = predict_case(model, Image(values[None], Geometry.pixels((37, 52))))
    assert np.array_equal(seg.labels, labels_of(values))
    assert seg.volume_ml(0) is None


def test_without_a_background_class_position_zero_is_the_first_class() -> None:
    values = np.array([[0, 100], [100, 0]], np.float32)
    model = a_model(
        Bands(0, 100), dims=2, spacing_mm=None, patch_size=[8, 8], background=False, out_channels=2
    )
    seg = predict_case(model, Image(values[None], Geometry.pixels((2, 2))))
    assert seg.labels.tolist() == [[3, 7], [7, 3]]


def test_overlapping_classes_come_as_regions() -> None:
    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x.abs() - 50, x - 50], 1)

    values = phantom(UPRIGHT)
    model = a_model(Two(), overlapping=True, background=False, out_channels=2, spacing_mm=[1.0, 1.0, 1.2])
    seg = predict_case(model, Image(values[None], UPRIGHT))
    assert np.array_equal(seg.regions[0], values != 0)
    assert np.array_equal(seg.regions[1], values > 0)
    assert set(np.unique(seg.labels)) == {0, 3, 7}


def test_the_largest_part_is_kept_and_holes_are_filled() -> None:
    values = phantom(UPRIGHT)
    ball = np.argwhere(values < 0).mean(axis=0).round().astype(int)
    values[tuple(ball)] = 0
    values[2:4, 2:4, 2:4] = -100
    image, model = Image(values[None], UPRIGHT), a_model(spacing_mm=[1.0, 1.0, 1.2])
    plain = predict_case(model, image)
    assert plain.labels[2, 2, 2] == 3
    assert plain.labels[tuple(ball)] == 0
    tidy = predict_case(model, image, Predict(keep_largest=["left ball"], fill_holes=["left ball"]))
    assert tidy.labels[2, 2, 2] == 0
    assert tidy.labels[tuple(ball)] == 3
    assert any("8 voxels outside the largest part" in note for note in tidy.provenance["notes"])
    with pytest.raises(UserError, match="did you mean left ball"):
        predict_case(model, image, Predict(keep_largest=["left bal"]))


@pytest.mark.parametrize("by", ["settings", "cross-validation"])
def test_a_class_of_one_part_that_falls_into_several_is_worth_a_look(by: str) -> None:
    values = np.zeros(UPRIGHT.shape, np.float32)
    values[10:20, 10:20, 10:20] = -100
    model = a_model(spacing_mm=[1.0, 1.0, 1.2])
    if by == "cross-validation":
        model.facts["postprocessing"] = [{"step": "keep_largest", "class": "left ball"}]
    settings = Predict(keep_largest=["left ball"] if by == "settings" else [])
    values[30:32, 10:15, 10:20] = -100  # 9 % of the class
    assert predict_case(model, Image(values[None], UPRIGHT), settings).provenance["torn"] == ()
    values[30:38, 10:20, 10:20] = -100
    image = Image(values[None], UPRIGHT)
    seg = predict_case(model, image, settings)
    words = "left ball is one part, but was found in several: 44 % of it lay outside the largest"
    assert seg.provenance["torn"] == (words,)
    assert words in measured(Predictor(model, settings), image, seg)["flags"]


def specks() -> Image:
    """The phantom with two specks of the ball's number: 8 voxels (9.6 mm3 here) and one voxel (1.2 mm3)."""
    values = phantom(UPRIGHT)
    values[2:4, 2:4, 2:4] = -100
    values[2, 2, 8] = -100
    return Image(values[None], UPRIGHT)


def test_parts_below_their_volume_are_removed_and_others_stay() -> None:
    model = a_model(spacing_mm=[1.0, 1.0, 1.2])
    voxel = UPRIGHT.voxel_volume_ml
    plain = predict_case(model, specks()).labels
    assert (plain[2, 2, 2], plain[2, 2, 8]) == (3, 3)
    for smallest, left in ((voxel, (3, 3)), (2 * voxel, (3, 0)), (8 * voxel, (3, 0)), (9 * voxel, (0, 0))):
        seg = predict_case(model, specks(), Predict(smallest_part_ml={"left ball": smallest}))
        assert (seg.labels[2, 2, 2], seg.labels[2, 2, 8]) == left, smallest
        assert np.array_equal(seg.labels == 7, plain == 7), "other classes are left alone"
        assert np.array_equal(seg.labels[6:], plain[6:])
    assert any(
        "left ball: 2 parts below" in note and "(9 voxels)" in note for note in seg.provenance["notes"]
    )
    with pytest.raises(UserError, match="did you mean left ball"):
        predict_case(model, specks(), Predict(smallest_part_ml={"left bal": 1.0}))


def test_parts_of_an_unlikely_median_are_removed_and_others_stay() -> None:
    """Also by what the model was made with, which settings go before."""
    values = phantom(UPRIGHT)
    values[2:5, 2:4, 2:4] = -140  # a ball by its number, but darker than any
    values[2, 2, 2] = -115
    image = Image(values[None], UPRIGHT)
    grid: dict[str, Any] = {"spacing_mm": [1.0, 1.0, 1.2]}
    limits = {"left ball": (-120.0, None)}
    plain = predict_case(a_model(**grid), image)
    assert (plain.labels[2:5, 2:4, 2:4] == 3).all()
    by_settings = predict_case(a_model(**grid), image, Predict(part_median=limits))
    by_model = predict_case(a_model(**grid, part_median=limits), image)
    for seg in (by_settings, by_model):
        assert not seg.labels[2:5, 2:4, 2:4].any()
        assert np.array_equal(seg.labels[6:], plain.labels[6:])
        assert np.array_equal(seg.labels == 7, plain.labels == 7), "other classes are left alone"
        assert "left ball: 1 parts with a median of -140 were removed (12 voxels)" in seg.provenance["notes"]
    assert by_settings.provenance["torn"] == ()
    for kept in ({}, {"left ball": (-150, None)}, {"left ball": (None, 0)}, {"right box": (-120, None)}):
        seg = predict_case(a_model(**grid, part_median=limits), image, Predict(part_median=kept))
        assert np.array_equal(seg.labels, plain.labels), kept
    bright = predict_case(a_model(**grid), image, Predict(part_median={"left ball": (None, -120)}))
    assert (bright.labels[2:5, 2:4, 2:4] == 3).all()
    (words,) = bright.provenance["torn"]
    assert " % of left ball was removed: its median of -100 is not that of the class" in words
    assert np.count_nonzero(bright.labels == 3) == 12
    with pytest.raises(UserError, match="did you mean left ball"):
        predict_case(a_model(**grid), image, Predict(part_median={"left bal": (0, None)}))


def test_a_model_keeps_how_small_a_part_may_be() -> None:
    model = a_model(spacing_mm=[1.0, 1.0, 1.2], smallest_part_ml={"left ball": 2 * UPRIGHT.voxel_volume_ml})
    for settings, left in ((Predict(), 0), (Predict(smallest_part_ml={}), 3)):
        assert predict_case(model, specks(), settings).labels[2, 2, 8] == left


def test_photographs_have_no_volume_to_remove_parts_below() -> None:
    model = a_model(dims=2, patch_size=[16, 16], spacing_mm=None)
    photograph = Image(np.zeros((1, 20, 20), np.float32), Geometry.pixels((20, 20)))
    with pytest.raises(UserError, match="volumes in ml need a voxel spacing"):
        predict_case(model, photograph, Predict(smallest_part_ml={"left ball": 1.0}))


def test_an_image_of_another_kind_is_refused() -> None:
    flat = Image(np.zeros((1, 8, 8), np.float32), Geometry.pixels((8, 8)))
    with pytest.raises(UserError, match="made for 3D"):
        predict_case(a_model(), flat)
    with pytest.raises(UserError, match="2 channels"):
        predict_case(a_model(), Image(np.zeros((2, *UPRIGHT.shape), np.float32), UPRIGHT))


def test_the_result_says_what_made_it() -> None:
    seg = predict_case(a_model(), Image(phantom(UPRIGHT)[None], UPRIGHT))
    assert seg.provenance["model"] == "f00d" * 16
    assert seg.provenance["system"] == "3d-u-net"
    assert seg.provenance["engine"].startswith("torch ")
    assert seg.provenance["windows"] > 1
