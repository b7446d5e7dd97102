"""Cuts are exact, walks solve their system, and what a person marked is kept."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.build import build
from medseg.zoo.classical.graphs.clicks import next_click, with_click
from medseg.zoo.classical.graphs.grab_cut import rounds_of
from medseg.zoo.classical.graphs.grid import contrast_links, decided, energy, links, minimum_cut, scaled
from medseg.zoo.classical.graphs.interactive_seeds import geodesic_distance
from medseg.zoo.classical.graphs.normalized_cut import normalised_value, recursive_cut, two_way_cut
from medseg.zoo.classical.graphs.seed_models import log_likelihood
from medseg.zoo.classical.seeds import box_of, seeds_of, start_of

SEEDED = ("graph-cuts", "random-walker", "interactive-seeds", "graph-min-cut")


def ball(dims: int, noise: float = 20.0, side: int = 24) -> tuple[np.ndarray, np.ndarray]:
    grids = np.ogrid[(slice(0, side),) * dims]
    truth = sum((g - side / 2) ** 2 for g in grids) < (side / 3.5) ** 2
    return (np.random.default_rng(0).normal(0, noise, truth.shape) + 100 * truth)[None], truth


def marks(dims: int, side: int = 24) -> Prompt:
    middle, corner = side / 2, 1.0
    return Prompt(
        points=np.full((1, dims), middle),
        point_classes=np.array([1]),
        scribbles=((np.array([[corner] * dims, [side - 2.0] + [corner] * (dims - 1)]), 0),),
    )


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("diagonals", [False, True])
def test_the_cut_is_the_exhaustive_minimum(seed: int, diagonals: bool) -> None:
    rng = np.random.default_rng(seed)
    shape = (3, 4)
    graph = contrast_links(rng.normal(size=(1, *shape)), (1.0, 2.0), diagonals=diagonals)
    cost = rng.normal(0, 1.5, shape)
    unary = np.stack([np.zeros(shape), cost])
    best = min(energy(np.reshape(x, shape), unary, graph) for x in product((0, 1), repeat=12))
    assert energy(minimum_cut(cost, graph), unary, graph) == pytest.approx(best, abs=1e-6)


def test_the_value_of_the_cut_is_the_maximum_flow() -> None:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_flow

    rng = np.random.default_rng(3)
    shape = (6, 7)
    graph = [
        k._replace(weight=rng.integers(1, 9, k.weight.shape).astype(float)) for k in links(shape, (1, 1))
    ]
    cost = rng.integers(-12, 13, shape).astype(float)
    number = np.arange(42).reshape(shape)
    rows, columns, values = [], [], []
    for k in graph:
        one, other = number[k.one].ravel(), number[k.other].ravel()
        rows += [*one, *other]
        columns += [*other, *one]
        values += [*k.weight.ravel(), *k.weight.ravel()]
    for node, d in enumerate(cost.ravel()):
        rows.append(42 if d < 0 else node)
        columns.append(node if d < 0 else 43)
        values.append(abs(d))
    flow = maximum_flow(
        csr_matrix((np.array(values, dtype=np.int32), (rows, columns)), shape=(44, 44)), 42, 43
    )
    unary = np.stack([np.maximum(-cost, 0), np.maximum(cost, 0)])
    assert energy(minimum_cut(cost, graph), unary, graph) == flow.flow_value


def test_voxels_decided_before_the_flow_are_decided_rightly() -> None:
    rng = np.random.default_rng(0)
    graph = scaled(contrast_links(rng.normal(size=(1, 30, 30)), (1, 1)), 0.6)
    cost = rng.normal(0, 1.5, (30, 30))
    _, fixed, _ = decided(cost, graph)
    assert 0.3 < (fixed >= 0).mean() < 1
    open_links = [k._replace(weight=k.weight.copy()) for k in graph]
    from medseg.zoo.classical.graphs.grid import _cut_by_flow

    whole = _cut_by_flow(cost, open_links, np.arange(900)).reshape(30, 30)
    assert np.array_equal(whole[fixed >= 0], fixed[fixed >= 0] == 1)


def test_forced_voxels_stay_what_they_are() -> None:
    cost = np.zeros((8, 8))
    cost[0, 0], cost[7, 7] = -np.inf, np.inf
    found = minimum_cut(cost, links((8, 8), (1, 1)))
    assert found[0, 0]
    assert not found[7, 7]


def test_links_over_longer_distances_are_weaker() -> None:
    graph = contrast_links(np.zeros((1, 4, 4)), (1.0, 4.0))
    weights = {k.one[0].start == 0 and k.one[0].stop == 3: float(k.weight[0, 0]) for k in graph}
    assert weights[True] == pytest.approx(4 * weights[False])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", SEEDED)
def test_a_ball_comes_back_from_a_point_and_a_stroke(name: str, dims: int) -> None:
    image, truth = ball(dims)
    found = build(name, dims=dims, in_channels=1, classes=2).segment(image, (1.0,) * dims, marks(dims)) == 1
    assert overlap(found, truth) > (0.8 if name in ("random-walker", "interactive-seeds") else 0.9)
    assert found[(12,) * dims]
    assert not found[(1,) * dims]


def test_the_minimum_cut_parts_the_brightest_from_the_darkest_without_a_prompt() -> None:
    image, truth = ball(2, noise=5.0)
    assert (
        overlap(build("graph-min-cut", dims=2, in_channels=1, classes=2).segment(image, (1, 1)) == 1, truth)
        > 0.95
    )


def test_normalised_cut_parts_two_cliques() -> None:
    ties = np.zeros((11, 11))
    ties[:5, :5] = ties[5:, 5:] = 1
    np.fill_diagonal(ties, 0)
    ties[4, 5] = ties[5, 4] = 0.5
    side, value = two_way_cut(ties)
    assert set(np.flatnonzero(side)) in ({*range(5)}, {*range(5, 11)})
    every = [np.array(x, dtype=bool) for x in product((False, True), repeat=11)]
    assert value == pytest.approx(min(normalised_value(ties, ties.sum(axis=1), x) for x in every))
    assert len(np.unique(recursive_cut(ties, threshold=0.3))) == 2


def test_normalised_cut_does_not_cut_off_a_speck_as_the_minimum_cut_does() -> None:
    ties = np.zeros((9, 9))
    ties[:4, :4] = ties[4:8, 4:8] = 1
    np.fill_diagonal(ties, 0)
    ties[3, 4] = ties[4, 3] = 0.3
    ties[0, 8] = ties[8, 0] = 0.2
    side, _ = two_way_cut(ties)
    assert min(side.sum(), (~side).sum()) >= 4


@pytest.mark.parametrize("dims", [2, 3])
def test_normalised_cut_finds_a_bright_ball(dims: int) -> None:
    image, truth = ball(dims, noise=5.0)
    labels = build("graph-normalized-cut", dims=dims, in_channels=1, classes=2).segment(image, (1.0,) * dims)
    assert overlap(labels == labels.max(), truth) > 0.85


def test_graph_cuts_minimise_the_energy_of_the_paper() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(size=(1, 3, 4))
    seeds = np.zeros((3, 4), dtype=np.uint8)
    seeds[0, 0], seeds[2, 3] = 1, 255
    found = build("graph-cuts", dims=2, in_channels=1, classes=2, region_weight=0.7).segment(
        image, (1, 1), Prompt(mask=seeds)
    )
    values = (image - image.mean()) / image.std()
    unary = 0.7 * np.stack([-log_likelihood(values, seeds == 255), -log_likelihood(values, seeds == 1)])
    graph = contrast_links(values, (1, 1), 1.0, diagonals=True)
    every = [np.reshape(x, (3, 4)) for x in product((0, 1), repeat=12) if x[0] == 1 and x[11] == 0]
    assert energy(found, unary, graph) == pytest.approx(min(energy(x, unary, graph) for x in every), abs=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_grab_cut_takes_a_ball_out_of_its_box(dims: int) -> None:
    image, truth = ball(dims, noise=10.0)
    box = Prompt(boxes=np.array([[[3.0] * dims, [21.0] * dims]]), box_classes=np.array([1]))
    found = build("grabcut", dims=dims, in_channels=1, classes=2).segment(image, (1.0,) * dims, box) == 1
    assert overlap(found, truth) > 0.95


def test_the_energy_of_grab_cut_falls_every_round() -> None:
    image, _ = ball(2, noise=60.0)
    values = ((image - image.mean()) / image.std()).astype(np.float32)
    sure = np.full((24, 24), np.inf)
    sure[2:22, 2:22] = 0
    _, energies = rounds_of(values, sure, scaled(contrast_links(values, (1, 1)), 5.0), (3, 6, 2000, 0))
    assert energies == sorted(energies, reverse=True)
    assert energies


def test_the_walker_solves_the_dirichlet_problem() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 5, 6))
    seeds = np.zeros((5, 6), dtype=np.uint8)
    seeds[0, 0], seeds[4, 5] = 1, 255
    found = build("random-walker", dims=2, in_channels=1, classes=2, tolerance=1e-10).segment(
        values, (1, 1), Prompt(mask=seeds)
    )
    grey = (values[0] - values.mean()) / values.std()
    number = np.arange(30).reshape(5, 6)
    laplacian = np.zeros((30, 30))
    for k in links((5, 6), (1, 1)):
        rate = 130 / (10 * grey.std())
        weight = np.exp(-rate * (grey[k.one] - grey[k.other]) ** 2) + 1e-10
        for u, v, w in zip(number[k.one].ravel(), number[k.other].ravel(), weight.ravel(), strict=True):
            laplacian[[u, v], [u, v]] += w
            laplacian[[u, v], [v, u]] -= w
    inner = [n for n in range(30) if n not in (0, 29)]
    chance = np.linalg.solve(laplacian[np.ix_(inner, inner)], -laplacian[inner, 0])
    sure = np.abs(chance - 0.5) > 1e-3
    assert np.array_equal(found.ravel()[inner][sure] == 1, (chance > 0.5)[sure])
    assert sure.sum() > 20


def test_several_objects_keep_their_own_seeds() -> None:
    image = np.repeat([[0.0, 50.0, 100.0]], 8, axis=1)[:, None].repeat(10, axis=1) + np.zeros((1, 10, 24))
    image += np.random.default_rng(0).normal(0, 3, image.shape)
    prompt = Prompt(
        points=np.array([[5.0, 12.0], [5.0, 20.0], [5.0, 2.0]]), point_classes=np.array([1, 2, 0])
    )
    for name in ("random-walker", "interactive-seeds"):
        labels = build(name, dims=2, in_channels=1, classes=3, objects=2).segment(image, (1, 1), prompt)
        assert labels[5, [2, 12, 20]].tolist() == [0, 1, 2]
        assert (labels == np.repeat([0, 1, 2], 8)[None]).mean() > 0.9


def test_geodesic_distance_is_euclidean_on_even_ground_and_in_millimetres() -> None:
    start = np.zeros((21, 11), dtype=bool)
    start[10, 5] = True
    far = geodesic_distance(start, np.ones(start.shape), (1.0, 2.0))
    truth = np.hypot((np.arange(21) - 10)[:, None], 2 * (np.arange(11) - 5)[None])
    assert np.abs(far - truth).max() < 1.1, "first order: a tenth too long across the grid"
    assert far[10, 9] == pytest.approx(8, abs=0.3)


@pytest.mark.parametrize("way", ["geodesic", "cut", "walker"])
def test_seeds_can_be_followed_in_three_ways(way: str) -> None:
    image, truth = ball(2)
    found = build("interactive-seeds", dims=2, in_channels=1, classes=2, way=way).segment(
        image, (1, 1), marks(2)
    )
    assert overlap(found == 1, truth) > 0.8


def test_a_simulated_click_falls_into_the_middle_of_the_largest_mistake() -> None:
    truth = np.zeros((20, 20), dtype=bool)
    truth[3:8, 3:8] = truth[10:19, 10:19] = True
    click = next_click(np.zeros_like(truth), truth, (2.0, 2.0))
    assert click is not None
    assert click[0].tolist() == [28.0, 28.0]
    assert click[1] == 1
    taken = next_click(np.ones_like(truth), truth, (1.0, 1.0))
    assert taken is not None
    assert taken[1] == 0
    assert next_click(truth, truth, (1.0, 1.0)) is None
    assert len(with_click(Prompt(), click).points) == 1


@pytest.mark.parametrize("name", ["graph-cuts", "random-walker", "interactive-seeds", "grabcut"])
def test_without_a_prompt_the_method_says_that_it_needs_one(name: str) -> None:
    image, _ = ball(2)
    with pytest.raises(UserError, match=f"needs (a prompt|seeds)(.|\n)*|system {name}"):
        build(name, dims=2, in_channels=1, classes=2).segment(image, (1, 1))


def test_faults_of_a_prompt_are_named() -> None:
    shape, step = (10, 10), (1.0, 1.0)
    one = Prompt(points=np.array([[3.0, 3.0]]), point_classes=np.array([1]))
    with pytest.raises(UserError, match="no seeds of the background"):
        seeds_of(one, shape, step, "graph-cuts")
    with pytest.raises(UserError, match="no seeds of the object"):
        seeds_of(Prompt(points=one.points, point_classes=np.array([0])), shape, step, "graph-cuts")
    with pytest.raises(UserError, match="outside the image"):
        seeds_of(
            Prompt(points=np.array([[30.0, 3.0]]), point_classes=np.array([1])), shape, step, "graph-cuts"
        )
    with pytest.raises(UserError, match="class 2, this method tells 1"):
        seeds_of(
            Prompt(points=np.array([[3.0, 3.0], [1, 1]]), point_classes=np.array([2, 0])),
            shape,
            step,
            "graph-cuts",
        )
    with pytest.raises(UserError, match="no voxel inside"):
        box_of(Prompt(boxes=np.array([[[40.0, 40], [50, 50]]])), shape, step, "grabcut")
    with pytest.raises(UserError, match="3 axes on an image with 2"):
        box_of(Prompt(boxes=np.zeros((1, 2, 3))), shape, step, "grabcut")
    with pytest.raises(UserError, match="covers the whole image"):
        build("grabcut", dims=2, in_channels=1, classes=2).segment(
            np.eye(10)[None], step, Prompt(boxes=np.array([[[0.0, 0], [10, 10]]]))
        )
    with pytest.raises(UserError, match="no region to start"):
        start_of(Prompt(points=one.points, point_classes=np.array([0])), shape, step, "snake")


def test_wrong_arguments_of_graph_methods_are_named() -> None:
    image, _ = ball(2)
    with pytest.raises(UserError, match=r"terminals is 0\.7"):
        build("graph-min-cut", dims=2, in_channels=1, classes=2, terminals=0.7).segment(image, (1, 1))
    with pytest.raises(UserError, match="no way named 'walk'"):
        build("interactive-seeds", dims=2, in_channels=1, classes=2, way="walk").segment(
            image, (1, 1), marks(2)
        )


def test_strokes_and_boxes_of_volumes_are_in_millimetres() -> None:
    prompt = Prompt(
        points=np.array([[0.0, 0.0, 9.0]]),
        point_classes=np.array([0]),
        scribbles=((np.array([[2.0, 2.0, 0.0], [2.0, 2.0, 6.0]]), 1),),
        boxes=np.array([[[0.0, 2.0, 3.0], [4.0, 6.0, 9.0]]]),
    )
    seeds = seeds_of(prompt, (5, 5, 5), (1.0, 2.0, 3.0), "graph-cuts")
    assert np.argwhere(seeds == 1).tolist() == [[2, 1, 0], [2, 1, 1], [2, 1, 2]]
    assert seeds[0, 0, 3] == 255
    assert box_of(prompt, (5, 5, 5), (1.0, 2.0, 3.0), "grabcut") == (slice(0, 4), slice(1, 3), slice(1, 3))
