"""Forms that save time give what the plain forms give."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core.errors import UserError
from medseg.zoo.classical.clustering.regions import numbered
from medseg.zoo.classical.edges.detector import rms_gradient
from medseg.zoo.classical.features import by_brightness
from medseg.zoo.classical.graphs import grid
from medseg.zoo.classical.grey import is_flat, side
from medseg.zoo.classical.method import checked_image


def test_an_image_is_flat_only_if_every_voxel_is_the_same() -> None:
    grey = np.full((100, 90), 3.0)
    assert is_flat(grey)
    grey[17, 23] = 4.0
    assert not is_flat(grey), "one voxel between those that are looked at first"
    assert side(grey, 3.5).sum() == 1
    assert side(grey, 3.5, dark=True).sum() == grey.size - 1


def test_voxels_that_are_no_numbers_are_counted_and_large_ones_are_not() -> None:
    image = np.full((1, 4, 4), 3e38, np.float32)
    assert checked_image(image, (1.0, 1.0), "here", (2,)) is not None, "their sum is infinite, they are not"
    image[0, 0, :2] = np.nan, np.inf
    with pytest.raises(UserError, match="2 of 16 voxels are NaN or infinite"):
        checked_image(image, (1.0, 1.0), "here", (2,))


def test_regions_are_numbered_and_ordered_as_by_sorting() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 3, 4, 9], (12, 13))
    grey = rng.normal(size=labels.shape) + np.array([5, 0, 0, 2, 9, 0, 0, 0, 0, -4])[labels]
    assert np.array_equal(numbered(labels), np.unique(labels, return_inverse=True)[1].reshape(labels.shape))
    order = [9, 3, 0, 4]
    assert all((by_brightness(labels, grey)[labels == value] == n).all() for n, value in enumerate(order))


@pytest.mark.parametrize("spacing_mm", [(2.0, 2.0), (2.0, 0.5)])
def test_the_gradient_of_sobel_is_in_grey_values_a_mm(spacing_mm: tuple[float, float]) -> None:
    from skimage.filters import sobel

    grey = np.random.default_rng(0).normal(size=(20, 21))
    parts = [sobel(grey, axis=a) / s for a, s in enumerate(spacing_mm)]
    wanted = np.sqrt((parts[0] ** 2 + parts[1] ** 2) / 2)
    np.testing.assert_allclose(rms_gradient(sobel, grey, spacing_mm), wanted, rtol=1e-12)


@pytest.mark.parametrize("shape", [(30, 31), (6, 7, 8), (12, 1, 9)])
@pytest.mark.parametrize("diagonals", [False, True])
def test_voxels_are_decided_alike_one_by_one_and_by_the_whole_grid(
    shape: tuple[int, ...], diagonals: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    graph = grid.contrast_links(rng.normal(size=(2, *shape)), [1.0] * len(shape), 1.0, diagonals)
    cost = rng.normal(size=shape) * 2
    cost[rng.random(shape) < 0.1], cost[rng.random(shape) < 0.1] = np.inf, -np.inf
    found = []
    for few in (0.0, 1.0):
        monkeypatch.setattr(grid, "FEW", few)
        found.append(grid.decided(cost, graph))
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])
    assert all(np.array_equal(a.weight, b.weight) for a, b in zip(found[0][2], found[1][2], strict=True))
