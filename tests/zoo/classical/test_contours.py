"""Contours descend their energy, stop at edges and know millimetres; sparse parts and moving objects are found."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.build import build
from medseg.zoo.classical.contours import acwe, localized, sparsity
from medseg.zoo.classical.contours.saliency_video import border_distance, film_saliency
from medseg.zoo.classical.contours.snake import outline
from medseg.zoo.classical.features import standardised


def disc(
    dims: int, noise: float = 10.0, side: int = 32, radius: float = 8.0
) -> tuple[np.ndarray, np.ndarray]:
    grids = np.ogrid[(slice(0, side),) * dims]
    truth = sum((g - side / 2 + 0.5) ** 2 for g in grids) < radius**2
    return (np.random.default_rng(0).normal(0, noise, truth.shape) + 100 * truth)[None], truth


def box(dims: int, low: float, high: float) -> Prompt:
    return Prompt(boxes=np.array([[[low] * dims, [high] * dims]]), box_classes=np.array([1]))


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def method(name: str, dims: int = 2, **arguments: object):
    return build(name, dims=dims, in_channels=1, classes=2, **arguments)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["acwe", "morph-acwe", "acm-localized"])
def test_a_noisy_disc_is_found_as_a_whole(name: str, dims: int) -> None:
    image, truth = disc(dims, noise=45.0)
    arguments = {"mu": 0.1} if name == "acwe" else {}
    found = method(name, dims, **arguments).segment(image, (1.0,) * dims) == 1
    otsu = method("threshold-otsu", dims).segment(image, (1.0,) * dims) == 1
    assert overlap(found, truth) > max(0.8, overlap(otsu, truth))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_energy_of_chan_and_vese_falls(dims: int) -> None:
    image, _ = disc(dims, noise=20.0)
    grey = ((image[0] - image.min()) / np.ptp(image)).astype(np.float32)
    start = np.zeros(grey.shape, dtype=bool)
    start[(slice(8, 30),) * dims] = True
    _, energies = acwe.descended(grey, start, np.ones(dims, dtype=np.float32), (0.02, 1.0, 1.0, 2.0), 200)
    assert energies[-1] < 0.8 * energies[0]
    assert all(after <= before * 1.02 for before, after in pairwise(energies))


def test_chan_and_vese_agree_with_scikit_image() -> None:
    from skimage.segmentation import chan_vese

    image, _ = disc(2, noise=20.0)
    peer = chan_vese(image[0], mu=0.25, init_level_set="small disk")
    assert overlap(method("acwe").segment(image, (1, 1)) == 1, peer) > 0.95


def test_a_longer_outline_costs_more_with_a_larger_mu() -> None:
    image, _ = disc(2, noise=70.0)
    lengths = [
        acwe.length(method("acwe", mu=mu).segment(image, (1, 1)) == 1, np.ones(2, dtype=np.float32))
        for mu in (0.01, 0.5)
    ]
    assert lengths[1] < 0.7 * lengths[0]


def test_the_curvature_of_a_cone_is_one_over_its_radius() -> None:
    rows, columns = np.mgrid[-20:21, -20:21].astype(np.float32)
    found = acwe.curvature(np.hypot(rows, 2 * columns).astype(np.float32), np.array([1, 2], dtype=np.float32))
    assert found[30, 20] == pytest.approx(1 / 10, rel=0.05)
    assert found[20, 26] == pytest.approx(1 / 12, rel=0.05)


def test_the_morphological_step_is_the_library_s() -> None:
    from skimage.segmentation import morphological_chan_vese

    image, _ = disc(2, noise=40.0)
    start = np.zeros((32, 32), dtype=np.uint8)
    start[4:20, 4:20] = 1
    found = method("morph-acwe", iterations=10).segment(image, (1, 1), Prompt(mask=start))
    grey = (image[0] - image.min()) / np.ptp(image)
    assert np.array_equal(found, morphological_chan_vese(grey, 10, start.astype(np.int8), smoothing=1))


def test_local_means_find_an_object_under_uneven_light_where_global_ones_fail() -> None:
    image, truth = disc(2, noise=2.0, side=64, radius=16)
    image = image * 0.3 + np.linspace(0, 80, 64)
    start = box(2, 14, 50)
    found = method("acm-localized", window_mm=13.0).segment(image, (1, 1), start) == 1
    other = method("acwe").segment(image, (1, 1), start) == 1
    assert overlap(found, truth) > 0.85
    assert overlap(other, truth) < 0.7


def test_a_window_of_the_whole_image_gives_the_global_means() -> None:
    image, truth = disc(2)
    grey = image[0].astype(np.float32)
    tiles = np.tile(grey, (3, 3))
    total = ndimage.uniform_filter(tiles, (32, 32), mode="nearest")
    wide = localized.local_means(tiles, np.tile(truth, (3, 3)), (32, 32), total)
    middle = (slice(32, 64),) * 2
    assert wide[0][middle] == pytest.approx(grey[truth].mean(), rel=0.02)
    assert wide[1][middle] == pytest.approx(grey[~truth].mean(), abs=0.5)


@pytest.mark.parametrize(("low", "high"), [(4.0, 28.0), (13.0, 19.0)])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_level_set_stops_at_the_edge_from_outside_and_from_inside(
    dims: int, low: float, high: float
) -> None:
    image, truth = disc(dims, noise=3.0)
    arguments = {} if low < 8 else {"propagation": 1.0}
    found = method("level-set", dims, **arguments).segment(image, (1.0,) * dims, box(dims, low, high)) == 1
    assert overlap(found, truth) > 0.8


def test_a_level_set_sees_millimetres() -> None:
    image, truth = disc(3, noise=3.0, side=32)
    thick = image[..., ::2]
    found = method("level-set", 3).segment(thick, (1.0, 1.0, 2.0), box(3, 4.0, 28.0)) == 1
    assert overlap(found, truth[..., ::2]) > 0.75


def test_a_snake_closes_on_a_disc() -> None:
    image, truth = disc(2, noise=2.0, side=64, radius=16)
    found = method("snake", beta=0.5, edge_weight=3.0).segment(image, (1, 1), box(2, 10, 54)) == 1
    assert overlap(found, truth) > 0.85


def test_without_an_image_a_snake_only_shrinks() -> None:
    start = box(2, 8, 56)
    areas = [
        int(
            method("snake", iterations=n, alpha=0.1, beta=0.1, gamma=0.01)
            .segment(np.zeros((1, 64, 64)), (1, 1), start)
            .sum()
        )
        for n in (1, 1500)
    ]
    assert areas[1] < 0.9 * areas[0]


def test_an_outline_has_points_at_equal_distances() -> None:
    _, truth = disc(2)
    curve = outline(truth, 60)
    steps = np.linalg.norm(curve - np.roll(curve, 1, axis=0), axis=1)
    assert steps == pytest.approx(steps.mean(), rel=0.15)


@pytest.mark.parametrize("name", ["snake", "level-set"])
def test_a_contour_without_a_start_says_that_it_needs_one(name: str) -> None:
    with pytest.raises(UserError, match="needs a prompt"):
        method(name).segment(disc(2)[0], (1, 1))


@pytest.mark.parametrize("dims", [2, 3])
def test_sparse_strokes_are_parted_from_a_smooth_ground(dims: int) -> None:
    side = 64 if dims == 2 else 24
    grids = np.meshgrid(*[np.linspace(0, 1, side)] * dims, indexing="ij")
    truth = np.zeros((side,) * dims, dtype=bool)
    truth[side // 3 : side // 3 + 2, 4:-4] = True
    truth[side // 2 : side // 2 + 5, side // 2 : side // 2 + 5] = True
    image = (100 * grids[0] + 40 * np.cos(3 * grids[1]) + 60 * truth)[None]
    found = method("sparsity-based", dims).segment(image, (1.0,) * dims) == 1
    otsu = method("threshold-otsu", dims).segment(image, (1.0,) * dims) == 1
    assert overlap(found, truth) > 0.9
    assert overlap(otsu, truth) < 0.3


def test_the_decomposition_reaches_the_minimum_of_its_objective() -> None:
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    block = rng.normal(0, 0.1, (1, 6, 6))
    block[0, 2:4, 2:4] += 3
    columns, eigen = sparsity.low_cosines((6, 6), 3)

    def value(a: np.ndarray) -> float:
        rest = (block.reshape(1, -1) - a[None] @ columns.T).reshape(block.shape)
        total = sum(float(np.abs(d).sum()) for d in sparsity.differences(rest))
        return float(np.abs(a).sum() + 0.5 * np.abs(rest).sum() + 0.2 * total)

    ground, _ = sparsity.decomposed(block, (columns, eigen), (0.5, 0.2), 2000)
    found = value(ground.reshape(-1) @ columns)
    best = min(minimize(value, rng.normal(size=3), method="Nelder-Mead").fun for _ in range(5))
    assert found == pytest.approx(best, rel=1e-3)


def test_cosines_are_orthonormal_and_eigenvectors_of_differences() -> None:
    columns, eigen = sparsity.low_cosines((8, 6), 7)
    assert columns.T @ columns == pytest.approx(np.eye(7), abs=1e-12)
    blocks = columns.T.reshape(7, 8, 6)
    twice = sparsity.transposed(sparsity.differences(blocks)).reshape(7, -1)
    assert twice == pytest.approx(eigen[:, None] * columns.T, abs=1e-12)


def test_blocks_are_put_back_where_they_came_from() -> None:
    image = np.random.default_rng(0).normal(size=(13, 7, 5))
    assert np.array_equal(sparsity.joined(sparsity.cut(image, (4, 4, 4)), image.shape, (4, 4, 4)), image)


def film(moves: bool) -> tuple[np.ndarray, np.ndarray]:
    from scipy import ndimage

    rng = np.random.default_rng(0)
    ground = ndimage.gaussian_filter(rng.normal(size=(60, 80)), 1.5) * 100
    thing = ndimage.gaussian_filter(rng.normal(size=(20, 20)), 1.5) * 100 + 25
    frames, truth = np.repeat(ground[..., None], 5, axis=-1), np.zeros((60, 80, 5), dtype=bool)
    for t in range(5):
        left = 25 + (2 * t if moves else 0)
        frames[20:40, left : left + 20, t] = thing
        truth[20:40, left : left + 20, t] = True
    return frames[None], truth


def saliency_contrast(frames: np.ndarray, truth: np.ndarray) -> float:
    saliency = film_saliency(standardised(frames), 150)
    return float(saliency[truth].mean() / saliency[~truth].mean())


def test_a_moving_thing_is_salient_and_found() -> None:
    frames, truth = film(moves=True)
    contrast = [saliency_contrast(*film(moves)) for moves in (False, True)]
    assert contrast[1] > 2
    assert contrast[1] > 1.3 * contrast[0], "motion adds to it"
    found = method("saliency-geodesic-video", 3).segment(frames, (1, 1, 1)) == 1
    assert overlap(found, truth) > 0.5


def test_saliency_is_the_geodesic_distance_to_the_border() -> None:
    regions = np.arange(25).reshape(5, 5)
    strength = np.zeros(25)
    strength[[6, 7, 8, 11, 13, 16, 17, 18]] = 1.0
    distance = border_distance(regions, strength).reshape(5, 5)
    assert distance[2, 2] == distance.max()
    assert distance[0].max() < 1e-3
    assert distance[1, 1] == pytest.approx(0.5, abs=0.01)


def test_wrong_arguments_of_contours_are_named() -> None:
    image, _ = disc(2)
    with pytest.raises(UserError, match="window_mm is -3"):
        method("acm-localized", window_mm=-3.0).segment(image, (1, 1))
    with pytest.raises(UserError, match="block 1"):
        method("sparsity-based", block=1).segment(image, (1, 1))


@pytest.mark.parametrize("name", ["acwe", "morph-acwe", "acm-localized", "sparsity-based"])
def test_a_constant_image_is_all_background(name: str) -> None:
    assert not method(name).segment(np.full((1, 12, 12), 3.0), (1, 1)).any()
