"""Intensities: the numbers of nnU-Net and MONAI, slab by slab, and messages for what cannot be prepared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.config import IntensityPlan
from medseg.core import Geometry, UserError
from medseg.ingest import intensity
from medseg.ingest.crop import body_box, crop_box, nonzero_mask

ORACLES = Path(__file__).parents[1] / "oracles"


@pytest.fixture(scope="module")
def oracle():
    arrays = np.load(ORACLES / "crop_norm.npz")
    facts = json.loads((ORACLES / "crop_norm.json").read_text())
    return arrays, facts[0]["bbox"], facts[1]["intensity_properties"]


def test_the_nonzero_box_is_that_of_nnunet(oracle):
    arrays, box, _ = oracle
    volume = arrays["vol"]
    found = crop_box(volume, Geometry.from_spacing(volume.shape[1:], (1, 1, 1)), "nonzero")
    assert [[b.start, b.stop] for b in found] == box
    assert (volume[(slice(None), *found)] == arrays["crop_vol"]).all()


def test_every_scheme_gives_the_numbers_of_nnunet(oracle):
    arrays, _, facts = oracle
    channel = arrays["crop_vol"][0]
    ct = IntensityPlan(
        scheme="ct",
        low=facts["percentile_00_5"],
        high=facts["percentile_99_5"],
        shift=facts["mean"],
        scale=facts["std"],
    )
    outside = arrays["crop_seg"][0] < 0
    assert np.abs(intensity.apply(channel, IntensityPlan(scheme="zscore")) - arrays["zscore"]).max() < 1e-5
    assert np.abs(intensity.apply(channel, ct) - arrays["ct"]).max() < 1e-5
    rgb = IntensityPlan(scheme="rgb", scale=255)
    assert np.abs(intensity.apply(np.abs(channel).clip(0, 255), rgb) - arrays["rgb01"]).max() < 1e-5
    masked = intensity.apply(channel, IntensityPlan(scheme="zscore_mask"), outside)
    assert np.abs(masked - arrays["zscore_mask"]).max() < 1e-5


def test_window_and_zscore_agree_with_monai():
    from monai.transforms import NormalizeIntensity, ScaleIntensityRange

    image = np.random.default_rng(0).normal(-300, 400, (12, 10, 8)).astype(np.float32)
    window = IntensityPlan(scheme="window", low=-1000, high=400, shift=-300, scale=700)
    theirs = np.asarray(ScaleIntensityRange(-1000, 400, -1, 1, clip=True)(image[None]))[0]
    assert np.abs(intensity.apply(image, window) - theirs).max() < 1e-5
    theirs = np.asarray(NormalizeIntensity()(image[None]))[0]
    assert np.abs(intensity.apply(image, IntensityPlan(scheme="zscore")) - theirs).max() < 1e-4


def test_percentiles_are_those_of_the_case():
    image = np.arange(10_000, dtype=np.float32).reshape(20, 20, 25)
    out = intensity.apply(image, IntensityPlan(scheme="percentile", low=10, high=90))
    assert (out == out.min()).mean() == pytest.approx(0.1, abs=0.002)
    assert out.mean() == pytest.approx(0, abs=1e-4)
    assert out.std() == pytest.approx(1, abs=1e-4)


def test_a_lower_percentile_of_0_cuts_nothing_below():
    image = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    out = intensity.apply(image, IntensityPlan(scheme="percentile", low=0, high=100))
    assert np.abs(out - (image - image.mean()) / image.std()).max() < 1e-5


def test_moments_keep_their_digits_far_from_zero():
    image = (np.random.default_rng(1).normal(0, 1, (30, 30, 30)) + 40_000).astype(np.float32)
    mean, sd = intensity.moments(image)
    assert mean == pytest.approx(float(image.astype(np.float64).mean()), rel=1e-9)
    assert sd == pytest.approx(float(image.astype(np.float64).std()), rel=1e-6)


def test_a_constant_image_becomes_zero_and_not_nan():
    assert (intensity.apply(np.full((3, 3, 3), 7, np.int16), IntensityPlan(scheme="zscore")) == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_counted_in_the_message(bad):
    image = np.zeros((3, 3, 3), np.float32)
    image[1, 1, :2] = bad
    with pytest.raises(UserError, match="2 of 27 voxels are NaN or infinite"):
        intensity.apply(image, IntensityPlan(scheme="none"))


def _chest(shape=(80, 60, 50)):
    rng = np.random.default_rng(0)
    image = rng.normal(-1000, 20, shape).astype(np.int16)
    image[20:60, 15:45] = 40
    image[25:55, 20:40] = -850
    return image


def test_the_body_box_holds_the_body_and_little_else():
    image = _chest()
    box = body_box(image, Geometry.from_spacing(image.shape, (2.0, 2.0, 3.0)))
    assert [(b.start, b.stop) for b in box[:2]] == [(15, 63), (12, 48)]
    assert box[2] == slice(0, 50)


def test_the_body_box_keeps_lung_at_the_edge_of_a_cropped_scan():
    image = _chest()[:, :, :][25:55]
    image[:, 15:45] = np.where(np.arange(30)[:, None, None] < 12, -850, image[:, 15:45])
    box = body_box(image, Geometry.from_spacing(image.shape, (2.0, 2.0, 3.0)))
    assert box[0] == slice(0, 30)


def test_an_image_of_air_keeps_its_whole_grid():
    image = np.full((1, 8, 8, 8), -1000, np.int16)
    assert crop_box(image, Geometry.from_spacing((8, 8, 8), (1, 1, 1)), "body") == (slice(0, 8),) * 3
    assert crop_box(image * 0, Geometry.from_spacing((8, 8, 8), (1, 1, 1)), "nonzero") == (slice(0, 8),) * 3


def test_holes_belong_to_the_nonzero_mask():
    image = np.ones((1, 5, 5, 5))
    image[0, 2, 2, 2] = 0
    image[0, 0] = 0
    mask = nonzero_mask(image)
    assert mask[2, 2, 2]
    assert not mask[0].any()
