"""Regions against flood fill, a recursive quadtree and a sorted list; seeds and their messages."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.build import build
from medseg.zoo.classical.regions.adjacency import merged, touching_pairs
from medseg.zoo.classical.regions.compete import compete
from medseg.zoo.classical.regions.growing import drawn_regions
from medseg.zoo.classical.regions.partition import levels_of, means_of, seeded
from medseg.zoo.classical.regions.seeds import seeds_of
from medseg.zoo.classical.regions.split_merge import even_blocks
from medseg.zoo.classical.regions.watershed import Watershed, WatershedArguments

WITHOUT_SEEDS = ["split-merge", "split-merge-grow", "watershed"]


def run(
    name: str,
    image: np.ndarray,
    prompt: Prompt | None = None,
    spacing: tuple[float, ...] = (),
    **parameters: object,
) -> np.ndarray:
    method = build(name, dims=image.ndim, in_channels=1, classes=2)
    return method.segment(image[None], spacing or (1.0,) * image.ndim, prompt, **parameters)


def marks(shape: tuple[int, ...], **places: tuple[int, ...]) -> Prompt:
    """A mask of seeds: `c1=(3, 4)` is a seed of class 1, `c255` one of the background."""
    mask = np.zeros(shape, dtype=int)
    for name, place in places.items():
        mask[place] = int(name[1:])
    return Prompt(mask=mask)


def ball(dims: int, side: int = 32) -> np.ndarray:
    return ((np.indices((side,) * dims) - side / 2) ** 2).sum(axis=0) < (side / 3.3) ** 2


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, shape)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", WITHOUT_SEEDS)
def test_a_ball_is_found_without_seeds(name: str, dims: int) -> None:
    truth = ball(dims)
    assert dice(run(name, 100 * truth + noise(*truth.shape)) == 1, truth) > 0.9


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("rule", ["difference", "confidence", "competition", "automatic"])
def test_a_ball_is_grown_by_every_rule(rule: str, dims: int) -> None:
    truth = ball(dims)
    centre = (16,) * dims
    prompt = None if rule == "automatic" else marks(truth.shape, c1=centre, c255=(1,) * dims)
    found = run("region-growing", 100 * truth + noise(*truth.shape), prompt, rule=rule, tolerance=0.2)
    assert dice(found == 1, truth) > 0.98


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_growth_on_a_staircase_is_a_flood_fill(steps: int) -> None:
    from skimage.segmentation import flood

    stairs = np.add.outer(np.arange(12) // 3, np.arange(15) // 3 % 3).astype(float) * 10
    extent = np.ptp(stairs)
    found = run("region-growing", stairs, marks(stairs.shape, c1=(4, 4)), tolerance=(10 * steps + 1) / extent)
    assert np.array_equal(found == 1, flood(stairs, (4, 4), connectivity=1, tolerance=10 * steps + 1))


def test_growth_by_confidence_is_itks() -> None:
    import SimpleITK as sitk

    image = 40.0 * ball(3) + 5 * noise(32, 32, 32)
    expected = sitk.ConfidenceConnected(sitk.GetImageFromArray(image), [[16, 17, 18]], 3, 2.0, 1)
    found = run(
        "region-growing", image, marks(image.shape, c1=(18, 17, 16)), rule="confidence", k=2.0, iterations=3
    )
    assert np.array_equal(found, sitk.GetArrayFromImage(expected))


def sorted_list_growth(grey: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Adams and Bischof by the book: always the most similar voxel of all next."""
    labels, queue = seeds.copy(), []
    sums = {v: grey[seeds == v].sum() for v in np.unique(seeds) if v}
    sizes = {v: (seeds == v).sum() for v in sums}

    def push(at: tuple[int, int], label: int) -> None:
        for move in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            to = (at[0] + move[0], at[1] + move[1])
            if 0 <= to[0] < grey.shape[0] and 0 <= to[1] < grey.shape[1] and not labels[to]:
                heapq.heappush(queue, (abs(grey[to] - sums[label] / sizes[label]), to, label))

    for at in map(tuple, np.argwhere(seeds)):
        push(at, labels[at])
    while queue:
        _, at, label = heapq.heappop(queue)
        if not labels[at]:
            labels[at] = label
            sums[label] += grey[at]
            sizes[label] += 1
            push(at, label)
    return labels


def test_competing_regions_grow_as_by_the_sorted_list() -> None:
    grey = 30.0 * (np.arange(40)[None] > 17) + 30.0 * (np.arange(36)[:, None] > 20) + 6 * noise(36, 40)
    seeds = np.zeros(grey.shape, dtype=np.int64)
    seeds[3, 3], seeds[5, 35], seeds[32, 36], seeds[30, 4] = 1, 2, 3, 4
    assert (compete(grey, seeds) == sorted_list_growth(grey, seeds)).mean() > 0.97
    assert (compete(grey, seeds) > 0).all()


def test_competition_stops_at_its_tolerance() -> None:
    stairs = (np.arange(12) // 4 * 10.0)[None].repeat(3, axis=0)
    seeds = np.zeros(stairs.shape, dtype=np.int64)
    seeds[:, :4] = 1
    assert np.array_equal(compete(stairs, seeds, tolerance=6.0) == 1, stairs == 0)


def test_drawn_regions_cover_the_image_and_follow_its_parts() -> None:
    parts = np.repeat([0.0, 50.0, 100.0], 10)[None].repeat(12, axis=0)
    regions = drawn_regions(parts, 20.0, 0)
    assert regions.max() == 2
    assert all(len(np.unique(regions[parts == v])) == 1 for v in (0, 50, 100))
    busy = drawn_regions(100 * noise(40, 40), 1.0, 0)
    assert busy.min() == 0
    assert len(np.unique(busy)) == busy.max() + 1


def recursive_blocks(grey: np.ndarray, tolerance: float, least: int) -> set[tuple[int, int, int]]:
    """(row, column, side) of the leaves of a quadtree on a square whose side is a power of two."""
    leaves = set()

    def cut(row: int, column: int, side: int) -> None:
        block = grey[row : row + side, column : column + side]
        if np.ptp(block) <= tolerance or side <= least:
            leaves.add((row, column, side))
            return
        half = side // 2
        for r in (row, row + half):
            for c in (column, column + half):
                cut(r, c, half)

    cut(0, 0, len(grey))
    return leaves


def test_blocks_are_those_of_a_recursive_quadtree() -> None:
    grey = 10.0 * ball(2) + 0.2 * noise(32, 32)
    blocks = even_blocks(grey, 2.0, 2, (1.0, 1.0))
    found = set()
    for value in range(blocks.max() + 1):
        rows, columns = np.nonzero(blocks == value)
        assert rows.size == (np.ptp(rows) + 1) ** 2 == (np.ptp(columns) + 1) ** 2
        found.add((int(rows.min()), int(columns.min()), int(np.ptp(rows)) + 1))
    assert found == recursive_blocks(grey, 2.0, 2)


def test_blocks_of_an_odd_volume_cover_it_and_are_even() -> None:
    grey = 10.0 * ball(3, 19)[:, :13, :7]
    blocks = even_blocks(grey, 1.0, 1, (1.0, 1.0, 1.0))
    assert len(np.unique(blocks)) == blocks.max() + 1
    assert all(np.ptp(grey[blocks == value]) <= 1.0 for value in range(blocks.max() + 1))


def test_sides_of_blocks_are_about_equal_in_millimetres() -> None:
    grey = noise(32, 32, 8)
    blocks = even_blocks(grey, 0.0, 4, (1.0, 1.0, 4.0))
    place = np.argwhere(blocks == 0)
    assert np.ptp(place, axis=0).tolist() == [3, 3, 0]


def test_pairs_are_the_regions_that_share_a_face() -> None:
    regions = np.array([[0, 0, 1], [2, 2, 1], [3, 2, 2]])
    assert {tuple(p) for p in touching_pairs(regions).tolist()} == {(0, 1), (0, 2), (1, 2), (2, 3)}


def test_merging_ends_when_no_neighbours_are_alike() -> None:
    grey = 40.0 * ball(2) + 10 * noise(32, 32)
    blocks = even_blocks(grey, 5.0, 1, (1.0, 1.0))
    regions = merged(blocks, grey, 6.0)
    means = means_of(regions, grey)
    pairs = touching_pairs(regions)
    assert (np.abs(means[pairs[:, 0]] - means[pairs[:, 1]]) > 6.0).all()
    assert regions.max() < blocks.max()
    assert all(len(np.unique(regions[blocks == value])) == 1 for value in range(blocks.max() + 1))


def test_merging_joins_what_cutting_parted() -> None:
    parts = np.repeat([0.0, 50.0, 100.0], 11)[None].repeat(17, axis=0)
    regions = merged(even_blocks(parts, 1.0, 1, (1.0, 1.0)), parts, 5.0)
    assert regions.max() == 2
    assert np.array_equal(means_of(regions, parts)[regions], parts)


def test_growth_after_merging_follows_the_image_and_not_the_blocks() -> None:
    truth = ball(2, 61)
    image = 100.0 * truth + noise(61, 61)
    coarse = dice(run("split-merge", image, least=8) == 1, truth)
    grown = dice(run("split-merge-grow", image, least=8) == 1, truth)
    assert grown > 0.97 > coarse


def test_seeds_choose_regions() -> None:
    parts = np.repeat([0.0, 50.0, 100.0], 10)[None].repeat(12, axis=0)
    prompt = marks(parts.shape, c1=(5, 5), c2=(5, 25))
    found = run("split-merge", parts, prompt, levels=3)
    assert np.array_equal(found, np.select([parts == 0, parts == 100], [1, 2], 0))


def test_most_seeds_decide_a_region() -> None:
    seeds = np.array([[1, 1, 255, 0, 255, 0]])
    assert seeded(np.array([[0, 0, 0, 0, 1, 1]]), seeds).tolist() == [[1, 1, 1, 1, 0, 0]]


def test_regions_are_put_into_as_many_levels_as_asked_or_as_there_are() -> None:
    grey = np.repeat([0.0, 50.0, 100.0], 4)[None]
    regions = np.repeat([0, 1, 2], 4)[None]
    assert levels_of(regions, grey, 3).max() == 2
    assert levels_of(regions, grey, 5).max() == 2
    assert levels_of(np.zeros_like(regions), grey, 2).max() == 0


def test_water_from_markers_meets_on_the_ridge() -> None:
    image = 100.0 * ball(2) + noise(32, 32)
    found = run("watershed", image, marks(image.shape, c1=(16, 16), c255=(1, 1)))
    assert dice(found == 1, ball(2)) > 0.95


def test_every_even_part_is_a_basin_and_shallow_basins_fill_up() -> None:
    parts = np.repeat(np.arange(4.0) * 40, 12)[None].repeat(40, axis=0)
    method = Watershed()
    regions = method.partition(parts, (1.0, 1.0), WatershedArguments())
    assert regions.max() == 3
    image = parts + 4 * noise(40, 48)
    count = [method.partition(image, (1.0, 1.0), WatershedArguments(level=v)).max() for v in (0.0, 0.1, 0.9)]
    assert count[0] > 10 * count[1] > 10 * count[2]


def test_markers_of_one_class_would_flood_everything() -> None:
    with pytest.raises(UserError, match="all markers are of one class") as caught:
        run("watershed", 100.0 * ball(2), marks((32, 32), c1=(16, 16)))
    assert "mark the background as well" in caught.value.hint
    with pytest.raises(UserError, match="no ridges"):
        run("watershed", np.ones((8, 8)), marks((8, 8), c1=(1, 1), c2=(5, 5)), levels=3)


def test_points_are_millimetres_in_volumes_and_pixels_in_photographs() -> None:
    points = np.array([[4.0, 6.0, 9.0]])
    prompt = Prompt(points=points, point_classes=np.array([2]))
    seeds = seeds_of(prompt, (6, 6, 6), (2.0, 3.0, 2.2), "here")
    assert np.argwhere(seeds == 2).tolist() == [[2, 2, 4]]
    flat = Prompt(points=points[:, :2], point_classes=np.array([0]))
    assert np.argwhere(seeds_of(flat, (8, 8), (0.5, 0.5), "here") == 255).tolist() == [[4, 6]]


def test_a_stroke_has_no_gaps_and_the_later_mark_stays() -> None:
    from scipy.ndimage import label

    stroke = np.array([[1.0, 1.0], [4.0, 17.0], [12.0, 3.0]])
    prompt = Prompt(scribbles=((stroke, 1), (stroke[1:2], 0)), mask=np.full((20, 20), 3))
    seeds = seeds_of(prompt, (20, 20), (1.0, 1.0), "here")
    assert seeds[4, 17] == 255
    assert label((seeds == 1) | (seeds == 255), np.ones((3, 3)))[1] == 1
    assert seeds[19, 19] == 3


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "it needs seeds and none was given"),
        (Prompt(mask=np.zeros((32, 32), dtype=int)), "it needs seeds and none was given"),
        (Prompt(mask=np.ones((5, 5), dtype=int)), r"mask of seeds has shape \(5, 5\), the image \(32, 32\)"),
        (Prompt(mask=np.full((32, 32), 300)), "values from 300 to 300"),
        (marks((32, 32), c255=(1, 1)), "only background seeds"),
        (marks((32, 32), c4=(1, 1)), "a seed has class 4, but `levels` is 2"),
        (
            Prompt(points=np.array([[40.0, 2.0]]), point_classes=np.array([1])),
            r"the first at voxel \(40, 2\)",
        ),
        (Prompt(points=np.array([[1.0, 2.0, 3.0]]), point_classes=np.array([1])), r"seeds of shape \(1, 3\)"),
        (Prompt(points=np.array([[1.0, 2.0]]), point_classes=np.array([-1])), "a seed has class -1"),
    ],
)
def test_seeds_that_cannot_be_used_are_refused(prompt: Prompt | None, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run("region-growing", 100.0 * ball(2), prompt)
    assert caught.value.where == "system region-growing"


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("region-growing", {"rule": "confident"}, "rule is 'confident', did you mean confidence"),
        ("region-growing", {"tolerance": 3.0}, "tolerance is 3.0"),
        ("split-merge", {"split": 2.0}, "split is 2.0"),
        ("split-merge", {"least": 0}, "least is 0"),
        ("split-merge", {"levels": 1}, "levels is 1"),
        ("split-merge-grow", {"smallest": -1.0}, "smallest is -1.0"),
        ("watershed", {"level": -0.1}, "level is -0.1"),
        ("watershed", {"sigma_mm": -0.1}, "sigma_mm is -0.1"),
    ],
)
def test_a_wrong_argument_is_named(name: str, parameters: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(name, np.eye(12), **parameters)
    assert caught.value.where == f"system {name}"
