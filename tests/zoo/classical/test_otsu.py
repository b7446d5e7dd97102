"""Otsu's threshold is the exhaustive maximum of the between-class variance."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.zoo.build import build
from medseg.zoo.classical.otsu import otsu_threshold


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_exhaustive_maximum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grey = np.concatenate([rng.normal(40, 8, 400), rng.normal(110, 20, 150)]).round()
    levels = np.arange(grey.min(), grey.max())

    def between(t: float) -> float:
        low, high = grey[grey <= t], grey[grey > t]
        return low.size * high.size * (low.mean() - high.mean()) ** 2

    best = max(between(t) for t in levels)
    bins = int(grey.max() - grey.min()) + 1
    assert between(otsu_threshold(grey, bins)) == pytest.approx(best, rel=1e-6)


def test_the_threshold_agrees_with_scikit_image() -> None:
    from skimage.filters import threshold_otsu

    rng = np.random.default_rng(0)
    grey = np.concatenate([rng.normal(0, 1, 5000), rng.normal(6, 1, 3000)])
    width = (grey.max() - grey.min()) / 256
    assert otsu_threshold(grey) == pytest.approx(threshold_otsu(grey), abs=2 * width)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_bright_object_is_found_and_a_dark_one_when_asked(dims: int) -> None:
    truth = np.zeros((20,) * dims, dtype=bool)
    truth[(slice(5, 12),) * dims] = True
    image = np.random.default_rng(0).normal(0, 5, truth.shape) + 100 * truth
    method = build("threshold-otsu", dims=dims, in_channels=1, classes=2)
    assert np.array_equal(method.segment(image[None], (1,) * dims) == 1, truth)
    assert np.array_equal(method.segment(-image[None], (1,) * dims, dark=True) == 1, truth)
    assert method.classes == {1: "foreground"}


def test_colour_is_thresholded_by_its_luminance() -> None:
    image = np.zeros((3, 8, 8))
    image[2, :, :4] = 255
    image[1, :, 4:] = 255
    labels = build("threshold-otsu", dims=2, in_channels=3, classes=2).segment(image, (1, 1))
    assert np.array_equal(labels, np.repeat([[0] * 4 + [1] * 4], 8, axis=0)), "green is brighter than blue"
