"""Borders follow the image's edges: more truth than the coarse grid holds, and nothing where there is no edge."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from medseg.config import IntensityPlan, Plan, Predict, System
from medseg.config_types import GuidedFilter
from medseg.core.case import Image
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import Model
from medseg.predict import guided_filter
from medseg.predict.case import predict_case
from medseg.predict.guided_filter import follow_edges

WINDOW = (IntensityPlan(scheme="window", low=-1000, high=400),)


def ball(shape: tuple[int, ...], spacing: tuple[float, ...], radius: float) -> np.ndarray:
    places = np.indices(shape) * np.reshape(spacing, (-1, *[1] * len(shape)))
    middle = np.reshape([(n - 1) * s / 2 for n, s in zip(shape, spacing)], (-1, *[1] * len(shape)))
    return np.linalg.norm(places - middle, axis=0) < radius


def coarse(mask: np.ndarray, step: int) -> np.ndarray:
    """The mask as a grid of `step` voxels holds it."""
    for axis in range(mask.ndim):
        places = np.minimum(np.arange(mask.shape[axis]) // step * step + step // 2, mask.shape[axis] - 1)
        mask = np.take(mask, places, axis)
    return mask


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.sum(a & b) / (a.sum() + b.sum()))


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((60, 56, 52), (1.0, 1.0, 1.0)), ((60, 56, 18), (1.0, 1.0, 3.0)), ((90, 80), (1.0, 1.0))],
)
def test_a_coarse_ball_in_noise_gets_its_own_border_back(
    shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    truth = ball(shape, spacing, 20)
    rng = np.random.default_rng(0)
    image = np.where(truth, -850, 30) + rng.normal(0, 60, shape)
    drawn = coarse(truth, 5)
    labels = drawn.astype(np.uint8)
    changed = follow_edges(labels, None, image[None], spacing, GuidedFilter(radius_mm=8), WINDOW)
    assert dice(drawn, truth) < 0.965 < 0.98 < dice(labels > 0, truth)
    assert changed == np.sum(labels != drawn) > 0


def test_a_border_farther_from_its_edge_comes_nearer_with_every_iteration() -> None:
    truth = ball((64, 64, 64), (1, 1, 1), 22)
    image = np.where(truth, -850, 30) + np.random.default_rng(0).normal(0, 60, truth.shape)
    drawn = ball((64, 64, 64), (1, 1, 1), 18)
    found = []
    for count in (1, 2, 3):
        labels = drawn.astype(np.uint8)
        setting = GuidedFilter(radius_mm=8, iterations=count)
        changed = follow_edges(labels, None, image[None], (1, 1, 1), setting, WINDOW)
        assert changed == np.sum(labels != drawn)
        found.append(dice(labels > 0, truth))
    assert dice(drawn, truth) < found[0] < found[1] < found[2]
    assert found[2] > 0.98


def test_an_image_without_edges_leaves_a_straight_border_where_it_is() -> None:
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[:15] = 4
    before = labels.copy()
    assert follow_edges(labels, None, np.full((1, 30, 30, 30), 40.0), (1, 1, 1), GuidedFilter(), WINDOW) == 0
    np.testing.assert_array_equal(labels, before)


def test_voxels_far_from_a_border_keep_their_label_however_strong_the_edge() -> None:
    """A vessel inside a lung is no border of the lung."""
    labels = np.zeros((60, 40, 40), np.uint8)
    labels[10:] = 1
    image = np.where(labels, -850.0, 30.0)
    image[40:44, 10:30, 10:30] = 50
    follow_edges(labels, None, image[None], (1, 1, 1), GuidedFilter(), WINDOW)
    assert labels[20:].all()


def test_touching_classes_part_at_the_edge_between_them() -> None:
    truth = np.zeros((40, 40, 40), np.uint8)
    truth[:, :20], truth[:, 20:] = 3, 9
    image = np.where(truth == 3, -300.0, 200.0)
    labels = np.roll(truth, 2, axis=1)
    labels[:, :2] = 3
    follow_edges(labels, None, image[None], (1, 1, 1), GuidedFilter(), WINDOW)
    np.testing.assert_array_equal(labels, truth)


def test_overlapping_regions_are_filtered_one_by_one() -> None:
    big, small = ball((48, 48, 48), (1, 1, 1), 20), ball((48, 48, 48), (1, 1, 1), 10)
    image = np.where(small, -900.0, np.where(big, -300.0, 300.0))
    regions = np.stack([coarse(big, 4), coarse(small, 4)])
    labels = np.zeros((48, 48, 48), np.uint8)
    before = [dice(regions[0], big), dice(regions[1], small)]
    follow_edges(labels, regions, image[None], (1, 1, 1), GuidedFilter(radius_mm=5), WINDOW)
    after = [dice(regions[0], big), dice(regions[1], small)]
    assert all(new > old for new, old in zip(after, before))
    assert not labels.any(), "labels are painted from regions afterwards"


@pytest.mark.parametrize("block", [1, 3_000, 20_000])
@pytest.mark.parametrize("order", list(product("CF", [(0, 1, 2), (2, 0, 1)])))
def test_blocks_are_only_a_matter_of_memory(
    block: int, order: tuple[str, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    truth = ball((40, 30, 34), (1, 1, 2), 14)
    image = np.where(truth, -700, 0) + rng.normal(0, 200, truth.shape)
    start = np.asarray(coarse(truth, 5).astype(np.uint8).transpose(order[1]), order=order[0])  # type: ignore[call-overload]
    image, spacing = image.transpose(order[1]), [(1, 1, 2)[axis] for axis in order[1]]
    whole, cut = start.copy(order="K"), start.copy(order="K")
    follow_edges(whole, None, image[None], spacing, GuidedFilter(radius_mm=4), WINDOW)
    monkeypatch.setattr(guided_filter, "BLOCK", block)
    follow_edges(cut, None, image[None], spacing, GuidedFilter(radius_mm=4), WINDOW)
    np.testing.assert_array_equal(cut, whole)
    assert (whole != start).any()


def test_the_filter_is_the_papers() -> None:
    """Equations 5, 6 and 8, window by window, against the running means (inside, where windows are whole)."""
    rng = np.random.default_rng(5)
    guide = rng.random((16, 15)).astype(np.float32)
    labels = (rng.random((16, 15)) < 0.5).astype(np.uint8)
    slopes, offsets = np.zeros(guide.shape), np.zeros(guide.shape)
    for i, j in product(range(2, 14), range(2, 13)):
        window = (slice(i - 2, i + 3), slice(j - 2, j + 3))
        values, mask = guide[window].astype(float), labels[window].astype(float)
        slopes[i, j] = ((values * mask).mean() - values.mean() * mask.mean()) / (values.var() + 1e-2)
        offsets[i, j] = mask.mean() - slopes[i, j] * values.mean()
    expected = np.zeros_like(labels)
    for i, j in product(range(4, 12), range(4, 11)):
        window = (slice(i - 2, i + 3), slice(j - 2, j + 3))
        expected[i, j] = slopes[window].mean() * guide[i, j] + offsets[window].mean() > 0.5
    reach = guided_filter.Reach(cell=(1, 1), box=(2, 2), near=(1, 1))
    plan = IntensityPlan(scheme="window", low=0, high=1)
    seen = guided_filter.Guide(guide[None], [plan], reach, 1e-2)
    maps = list(guided_filter._maps(labels, [1], seen, (slice(None), slice(None)), reach))
    places = [p.ravel() for p in np.indices(labels.shape)]
    found = guided_filter._winners(0, [1], maps, guide.ravel(), places, (1, 1)).reshape(labels.shape)
    np.testing.assert_array_equal(found[4:12, 4:11], expected[4:12, 4:11])


def test_cells_of_voxels_hardly_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = ball((64, 64, 64), (1, 1, 1), 22)
    image = np.where(truth, -850, 30) + np.random.default_rng(1).normal(0, 60, truth.shape)
    results = []
    for half_width in (3, 100):
        monkeypatch.setattr(guided_filter, "BOX", half_width)
        labels = coarse(truth, 5).astype(np.uint8)
        follow_edges(labels, None, image[None], (1, 1, 1), GuidedFilter(), WINDOW)
        results.append(labels > 0)
    assert dice(*results) > 0.995


def test_what_it_takes_is_what_was_announced() -> None:
    import tracemalloc

    truth = ball((120, 128, 130), (1, 1, 1), 40)
    image = np.where(truth, -850, 30).astype(np.int16)[None]
    labels = coarse(truth, 5).astype(np.uint8)
    announced = guided_filter.working_bytes(labels.shape, (1, 1, 1), GuidedFilter(), 1)
    tracemalloc.start()
    follow_edges(labels, None, image, (1, 1, 1), GuidedFilter(), WINDOW)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= announced


class Dark(torch.nn.Module):
    """Class 1 where it is dark."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x - 0.5, 0.5 - x], dim=1)


def a_model(setting: GuidedFilter | None) -> Model:
    info = ClassInfo("lung", 1, (255, 0, 0))
    plan = Plan(dims=3, in_channels=1, classes=[info.as_json()], out_channels=2, spacing_mm=[5, 5, 5],
                intensity=[IntensityPlan(scheme="window", low=-1000, high=400, shift=-1000, scale=1400)],
                image_order=1, patch_size=[16, 16, 16], batch_size=1, guided_filter=setting)  # fmt: skip
    return Model(Dark().eval(), None, plan, (info,), System(name="3d-u-net"), "f00d" * 16, {})


def test_a_model_uses_what_it_was_made_with_and_settings_go_before() -> None:
    truth = ball((60, 60, 60), (1, 1, 1), 20)
    image = Image(
        np.where(truth, -850, 30)[None].astype(np.int16), Geometry.from_spacing((60, 60, 60), (1, 1, 1))
    )
    wanted = GuidedFilter(radius_mm=6)
    plain = predict_case(a_model(None), image)
    made = predict_case(a_model(wanted), image)
    off = predict_case(a_model(wanted), image, Predict(guided_filter="none"))
    asked = predict_case(a_model(None), image, Predict(guided_filter=wanted))
    np.testing.assert_array_equal(off.labels, plain.labels)
    np.testing.assert_array_equal(asked.labels, made.labels)
    assert dice(plain.labels > 0, truth) < dice(made.labels > 0, truth)
    assert not plain.provenance["notes"]
    assert "borders follow the image's edges" in made.provenance["notes"][0]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 2.0, 4.0)])
def test_what_lies_far_from_all_borders_changes_nothing(spacing: tuple[float, ...]) -> None:
    """Maps are fitted in the box around the borders alone: the scene around it may be any."""
    rng = np.random.default_rng(2)
    image = rng.normal(-400, 300, (120, 72, 48))
    drawn = np.zeros(image.shape, np.uint8)
    drawn[56:64, 30:40, 20:26], drawn[60:64, 30:36, 20:23] = 1, 2
    other = np.where(np.arange(120)[:, None, None] < 12, 300.0, image)
    found = []
    for scene in (image, other):
        labels = drawn.copy()
        setting = GuidedFilter(radius_mm=6, iterations=2)
        assert follow_edges(labels, None, scene[None], spacing, setting, WINDOW) > 0
        found.append(labels)
    np.testing.assert_array_equal(*found)
    whole = guided_filter.Reach.of(GuidedFilter(radius_mm=6), spacing)
    assert whole.around([slice(56, 64), slice(30, 40), slice(20, 26)], image.shape)[0].start > 12


@pytest.mark.parametrize("cell", [(1, 2, 3), (1, 1, 1), (4, 1, 2)])
def test_interpolation_between_cells_is_that_of_scipy(cell: tuple[int, ...]) -> None:
    from scipy.ndimage import map_coordinates

    rng = np.random.default_rng(3)
    shape = (11, 13, 17)
    field = rng.normal(size=[-(-n // c) for n, c in zip(shape, cell)]).astype(np.float32)
    places = [p.ravel() for p in np.indices(shape)]
    at = [(p + 0.5) / c - 0.5 for p, c in zip(places, cell)]
    found = guided_filter._between(field, guided_filter._corners(places, cell, field.shape))
    np.testing.assert_allclose(found, map_coordinates(field, at, order=1, mode="nearest"), atol=1e-6)
