"""Resampling: nnU-Net's numbers for order 3, averaging for order 1, labels that keep their volume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.core import Geometry
from medseg.ingest import resample as r

ORACLES = Path(__file__).parents[1] / "oracles"
CASES = json.loads((ORACLES / "resampling_small.json").read_text())


def _check_against(case, arrays):
    number, shape = case["case"], case["new_shape"]
    for_image = r.image_sampling(case["spacing"], case["new_spacing"], 3)
    for_label = r.label_sampling(case["spacing"], case["new_spacing"], 3)
    assert for_image.coarse == case["axis"]
    for image, expected in zip(arrays[f"{number}_img"], arrays[f"{number}_img_order3"]):
        assert np.abs(r.resample(image, shape, for_image) - expected).max() <= 1e-5
    for logits, expected in zip(arrays[f"{number}_logits"], arrays[f"{number}_logits_order1"]):
        assert np.abs(r.resample(logits, shape, for_label) - expected).max() <= 1e-5
    labels = (arrays[f"{number}_seg"][0] + 1).astype(np.uint8)
    differing = (
        r.resample_labels(labels, shape, for_label).astype(int) - 1 != arrays[f"{number}_seg_order1"][0]
    )
    assert differing.sum() <= 3  # exact ties between labels of which none is the nearest voxel's


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"case{c['case']}")
def test_order_three_gives_the_numbers_of_nnunet(case):
    _check_against(case, np.load(ORACLES / "resampling_small.npz"))


def test_all_volumes_of_the_oracle_agree(shared_data):
    folder = shared_data.parent / "oracles"
    if not (folder / "resampling.npz").exists():
        pytest.skip("the oracle tables are not beside the real images")
    arrays = np.load(folder / "resampling.npz")
    for case in json.loads((folder / "resampling.json").read_text()):
        _check_against(case, arrays)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("n_in", "n_out"), [(7, 7), (1, 5), (5, 1), (30, 11), (11, 30)])
def test_a_constant_line_stays_constant(order, n_in, n_out):
    for widen in (False, True):
        assert r.axis_matrix(n_in, n_out, order, widen).sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_shrinking_with_order_one_averages_noise_away():
    noise = np.random.default_rng(0).normal(0, 1, (64, 64, 64)).astype(np.float32)
    wide = r.resample(noise, (16, 16, 16), r.Sampling((1, 1, 1), widen=True))
    thin = r.resample(noise, (16, 16, 16), r.Sampling((1, 1, 1), widen=False))
    assert wide.std() < 0.12
    assert thin.std() > 0.3


def test_a_strided_view_of_whole_numbers_gives_the_same_as_its_copy_and_is_not_altered():
    volume = np.asfortranarray(np.random.default_rng(1).integers(-1000, 1000, (40, 30, 20)).astype(np.int16))
    view = volume.transpose(2, 0, 1)[::-1, :, ::-1]
    before = volume.copy()

    def change(slab):
        slab -= 5
        return slab

    sampling = r.Sampling((1, 1, 1), widen=True)
    of_view = r.resample(view, (33, 17, 12), sampling, change)
    of_copy = r.resample(view.astype(np.float32) - 5, (33, 17, 12), sampling)
    assert np.abs(of_view - of_copy).max() < 1e-3
    assert (volume == before).all()


def test_a_change_never_reaches_a_float_source():
    volume = np.ones((4, 4, 4), np.float32)
    r.resample(volume, (4, 4, 4), r.Sampling((1, 1, 1), True), lambda slab: np.multiply(slab, 0, out=slab))
    assert (volume == 1).all()


@pytest.mark.parametrize("order", [1, 3])
def test_labels_keep_their_volume_and_place(order):
    labels = np.zeros((60, 60, 40), np.uint8)
    x, y, z = np.ogrid[:60, :60, :40]
    labels[(x - 30) ** 2 + (y - 25) ** 2 + (1.5 * (z - 20)) ** 2 < 15**2] = 1
    labels[(x - 30) ** 2 + (y - 25) ** 2 + (1.5 * (z - 20)) ** 2 < 8**2] = 2
    grid = Geometry.from_spacing(labels.shape, (1.0, 1.0, 1.5))
    target = grid.with_spacing((1.7, 1.4, 2.0))
    out = r.resample_labels(labels, target.shape, r.label_sampling(grid.spacing, target.spacing, order))
    for value in (1, 2):
        before, after = np.argwhere(labels == value), np.argwhere(out == value)
        volume = len(before) * grid.voxel_volume_ml
        assert len(after) * target.voxel_volume_ml == pytest.approx(volume, rel=0.04)
        assert (
            np.abs(grid.to_world(before).mean(0) - target.to_world(after).mean(0)).max() < 0.25
        )  # an eighth of a target voxel


def test_many_labels_equal_the_plain_argmax_over_all():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 6, (9, 8, 7)).astype(np.uint8).repeat(3, 0).repeat(3, 1).repeat(3, 2)
    shape, sampling = (17, 19, 13), r.Sampling((1, 1, 1), widen=True)
    shares = np.stack([r.resample((labels == k).astype(np.float32), shape, sampling) for k in range(6)])
    top = np.sort(shares, axis=0)
    clear = top[-1] - top[-2] > 1e-4
    assert (r.resample_labels(labels, shape, sampling) == shares.argmax(0))[clear].all()


def test_regions_are_resampled_one_by_one():
    regions = np.zeros((2, 20, 20, 20), bool)
    regions[0, 4:16, 4:16, 4:16] = True
    regions[1, 8:12, 8:12, 8:12] = True
    out = r.resample_regions(regions, (10, 10, 10), r.Sampling((1, 1, 1), widen=True))
    assert [int(channel.sum()) for channel in out] == [6**3, 2**3]
    assert (out[0] | ~out[1]).all()


@pytest.mark.parametrize(
    ("now", "then", "axis"),
    [
        ((1, 1, 5), (1, 1, 1), 2),
        ((1, 1, 3), (1, 1, 1), None),
        ((1, 1, 2), (1, 1, 4), 2),
        ((0.2, 1.2, 1.2), (1, 1, 1), None),
    ],
)
def test_a_coarse_axis_is_one_more_than_three_times_the_finest(now, then, axis):
    assert r.coarse_axis(now, then) == axis


@pytest.mark.parametrize("n", [25, 26, 64, 301])
def test_spline_coefficients_are_those_of_scipy(n: int) -> None:
    from scipy.ndimage import spline_filter1d

    samples = np.random.default_rng(n).normal(size=(n, 5))
    before = samples.copy()
    found = r._spline_coefficients(samples)
    assert np.abs(found - spline_filter1d(samples, order=3, axis=0, mode="nearest")).max() < 1e-13
    assert np.array_equal(samples, before)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize(("n_in", "n_out"), [(512, 273), (120, 400), (7, 9)])
def test_no_weight_is_a_denormal_number_and_rows_still_sum_to_one(order, n_in, n_out):
    weights = r.axis_matrix(n_in, n_out, order, widen=order == 1)
    there = np.abs(weights[weights != 0])
    assert there.min() >= 1e-13
    np.testing.assert_allclose(weights.sum(axis=1, dtype=np.float64), 1, atol=1e-6)
