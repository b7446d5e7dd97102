"""What was made faster gives what the slower form gives; what a row says may be searched can be set."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from medseg.core.prompt import Prompt
from medseg.zoo.build import arguments_of, build
from medseg.zoo.card import Card
from medseg.zoo.catalog import CATALOG
from medseg.zoo.classical.contours import acwe, level_set

CLASSICAL = [card for card in CATALOG if card.kind == "classical"]


def blob(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball in noise (1, *S), and where it is."""
    grid = np.indices(shape)
    far = sum((g - n / 2) ** 2 for g, n in zip(grid, shape, strict=True))
    ball = far < (min(shape) / 3) ** 2
    return (np.where(ball, 90.0, 20.0) + np.random.default_rng(0).normal(0, 20, shape))[None], ball


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.5, 3.0)])
def test_the_walker_gives_the_labels_of_scikit_image(spacing: tuple[float, ...]) -> None:
    from skimage.segmentation import random_walker

    image, _ = blob((12, 11, 9))
    seeds = np.zeros(image.shape[1:], dtype=np.uint8)
    seeds[6, 5, 4], seeds[6, 7, 5], seeds[0, 0, 0] = 1, 2, 255
    method = build("random-walker", dims=3, in_channels=1, classes=3, objects=2, tolerance=1e-8)
    found = method.segment(image, spacing, Prompt(mask=seeds))
    unit = float(np.prod(spacing)) ** (1 / 3)
    grey = (image[0] - image[0].mean()) / image[0].std()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = random_walker(
            grey[..., None],
            np.where(seeds == 255, 3, seeds).astype(int),
            beta=130,
            tol=1e-8,
            spacing=[s / unit for s in spacing],
            channel_axis=-1,
        )
    assert np.array_equal(found, np.where(peer == 3, 0, peer))


def test_an_image_that_is_all_seeds_keeps_them() -> None:
    seeds = np.array([[1, 255], [255, 1]], dtype=np.uint8)
    method = build("random-walker", dims=2, in_channels=1, classes=2)
    found = method.segment(np.eye(2)[None], (1, 1), Prompt(mask=seeds))
    assert found.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("shape", [(14, 13, 11), (20, 23)])
def test_the_morphological_flow_is_the_library_s_voxel_for_voxel(shape: tuple[int, ...]) -> None:
    from skimage.segmentation import morphological_chan_vese

    image, ball = blob(shape)
    start = np.roll(ball, 2, axis=0)
    method = build("morph-acwe", dims=len(shape), in_channels=1, classes=2, iterations=4, smoothing=1)
    found = method.segment(image, (1.0,) * len(shape), Prompt(mask=start.astype(np.uint8)))
    grey = (image[0] - image[0].min()) / np.ptp(image[0])
    assert np.array_equal(found, morphological_chan_vese(grey, 4, start.astype(np.int8), smoothing=1))


def test_slabs_change_nothing_of_chan_and_vese(monkeypatch: pytest.MonkeyPatch) -> None:
    image, ball = blob((15, 12, 10))
    grey = (image[0] / 100).astype(np.float32)
    steps, weights = np.ones(3, dtype=np.float32), (0.25, 1.0, 1.0, 0.5)
    phi = np.where(ball, np.float32(1), np.float32(-1))
    whole = acwe.one_step(phi, grey, steps, weights, acwe.side_means(grey, ball))
    monkeypatch.setattr(acwe, "SLAB_VOXELS", 250)
    assert np.array_equal(acwe.one_step(phi, grey, steps, weights, acwe.side_means(grey, ball)), whole)


def test_a_level_set_that_shrinks_needs_only_the_surroundings_of_its_box(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image, _ = blob((48, 50))  # a few steps: in noise the contour would vanish in the end
    prompt = Prompt(boxes=np.array([[[13.0, 14.0], [36.0, 37.0]]]))
    method = build("level-set", dims=2, in_channels=1, classes=2, iterations=6)
    found = method.segment(image, (1, 1), prompt)
    monkeypatch.setattr(level_set, "MARGIN", 1000)
    assert np.array_equal(method.segment(image, (1, 1), prompt), found)
    assert found.any()


@pytest.mark.parametrize("card", CLASSICAL, ids=lambda c: c.name)
def test_a_search_names_arguments_that_exist_and_their_default_or_values_near_it(card: Card) -> None:
    known = dict(arguments_of(card))
    assert card.search
    assert set(card.search) <= set(known)
    assert all(len(set(values)) == len(values) for values in card.search.values())
    kinds = {type(v) for name in card.search for v in card.search[name]}
    assert kinds <= {int, float, bool, str, tuple, type(None)}
