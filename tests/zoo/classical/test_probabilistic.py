"""Fields are minimised as their solvers promise, and models learn what generated the data."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, permutations, product

import numpy as np
import pytest

from medseg.core.case import Case, Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.prompt import Prompt
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.zoo.build import build
from medseg.zoo.classical.graphs.grid import contrast_links, energy, links, scaled
from medseg.zoo.classical.probabilistic.bayesian_network import (
    TreeNetwork,
    best_tree,
    conditional_information,
)
from medseg.zoo.classical.probabilistic.costs import gaussian_costs
from medseg.zoo.classical.probabilistic.crf_dense import marginals
from medseg.zoo.classical.probabilistic.solvers import expansion, free_energy, icm, mean_field, softmax

FIELDS = ("mrf-potts", "crf-grid", "crf-dense", "pgm-generative")
LEARNED = ("pgm-discriminative", "pgm-bayesian-network")


def field(shape: tuple[int, ...], classes: int, seed: int = 0, weight: float = 0.8):
    rng = np.random.default_rng(seed)
    graph = scaled(contrast_links(rng.normal(size=(1, *shape)), (1.0,) * len(shape)), weight)
    return rng.normal(0, 1, (classes, *shape)), graph


def square(dims: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    truth = np.zeros((20,) * dims, dtype=bool)
    truth[(slice(5, 15),) * dims] = True
    return (np.random.default_rng(0).normal(0, noise, truth.shape) + 100 * truth)[None], truth


def marks(dims: int) -> Prompt:
    seeds = np.zeros((20,) * dims, dtype=np.uint8)
    seeds[(slice(7, 12),) * dims] = 1
    seeds[:3] = 255
    return Prompt(mask=seeds)


@pytest.mark.parametrize("seed", range(4))
def test_expansion_on_two_labels_is_the_exact_minimum(seed: int) -> None:
    unary, graph = field((3, 4), 2, seed)
    best = min(energy(np.reshape(x, (3, 4)), unary, graph) for x in product((0, 1), repeat=12))
    assert energy(expansion(unary, graph), unary, graph) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_expansion_on_three_labels_ends_near_the_optimum_and_below_icm(seed: int) -> None:
    unary, graph = field((2, 4), 3, seed)
    best = min(energy(np.reshape(x, (2, 4)), unary, graph) for x in product(range(3), repeat=8))
    found = energy(expansion(unary, graph), unary, graph)
    assert found <= energy(icm(unary, graph), unary, graph) + 1e-9
    assert found <= best + 0.1 * abs(best)


@pytest.mark.parametrize("shape", [(15, 16), (6, 7, 8)])
def test_icm_never_raises_the_energy(shape: tuple[int, ...]) -> None:
    unary, graph = field(shape, 4, weight=2.0)
    labels = np.random.default_rng(5).integers(0, 4, shape)
    energies = [energy(labels, unary, graph)]
    for _ in range(6):
        labels = icm(unary, graph, rounds=1, labels=labels)
        energies.append(energy(labels, unary, graph))
    assert energies == sorted(energies, reverse=True)
    assert energies[-1] < energies[0]


@pytest.mark.parametrize("shape", [(12, 13), (6, 5, 7)])
def test_mean_field_lowers_the_free_energy_every_round(shape: tuple[int, ...]) -> None:
    unary, graph = field(shape, 3)
    values = [free_energy(softmax(-unary), unary, graph)]
    values += [free_energy(mean_field(unary, graph, rounds=n), unary, graph) for n in range(1, 6)]
    assert all(after <= before + 1e-9 for before, after in pairwise(values))
    assert values[-1] < values[0] - 1


def test_dense_mean_field_lowers_the_free_energy_of_all_pairs() -> None:
    image, _ = square(2, 50.0)
    values = ((image - image.mean()) / image.std()).astype(np.float32)[:, 4:16, 4:16]
    costs = gaussian_costs(values, np.stack([values[0] < 0, values[0] >= 0]))
    theta, weights = (6.0, 60.0, 1.5), (1.0, 1.0)
    place = np.stack(np.meshgrid(*[np.arange(12.0)] * 2, indexing="ij")).reshape(2, -1).T
    far = np.square(place[:, None] - place[None]).sum(-1)
    unlike = np.square(58 * (values.reshape(-1, 1) - values.reshape(1, -1)))
    kernels = [
        np.exp(-far / (2 * theta[0] ** 2) - unlike / (2 * theta[1] ** 2)),
        np.exp(-far / (2 * theta[2] ** 2)),
    ]
    tie = sum(w * k / k.sum(1, keepdims=True) for w, k in zip(weights, kernels, strict=True))
    tie = (tie + tie.T) / 2

    def free(q: np.ndarray) -> float:
        flat = q.reshape(2, -1).astype(float)
        unary = -np.log(softmax(-costs)).reshape(2, -1)
        pairs = 0.5 * (tie * (1 - flat.T @ flat)).sum()
        return float((flat * unary).sum() + (flat * np.log(flat + 1e-30)).sum() + pairs)

    start = softmax(-costs)
    values_after = [free(marginals(values, costs, (1, 1), (weights, theta, n))) for n in (1, 3, 6)]
    assert values_after[0] < free(start) - 1
    assert values_after[-1] <= values_after[0] + 0.1, "all voxels move at once, so the last steps may waver"


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", FIELDS)
def test_a_field_cleans_noise_that_single_voxels_cannot(name: str, dims: int) -> None:
    image, truth = square(dims, 40.0)
    field = build(name, dims=dims, in_channels=1, classes=2)
    widths = {"crf-dense": {"theta": (10.0, 40.0, 2.0)}, "pgm-generative": {"beta": 1.0}}.get(name, {})
    labels = field.segment(image, (1.0,) * dims, None, classes=2, **widths)
    alone = build("cluster-kmeans", dims=dims, in_channels=1, classes=2, clusters=2).segment(
        image, (1.0,) * dims
    )
    assert ((labels == 1) != truth).sum() < 0.5 * ((alone == 1) != truth).sum()


@pytest.mark.parametrize("name", ["mrf-potts", "crf-grid", "crf-dense"])
def test_seeds_replace_the_clusters(name: str) -> None:
    image, truth = square(2, 20.0)
    found = build(name, dims=2, in_channels=1, classes=2).segment(-image, (1, 1), marks(2))
    assert ((found == 1) != truth).mean() < 0.05


def test_without_neighbours_em_is_a_gaussian_mixture() -> None:
    from sklearn.mixture import GaussianMixture

    rng = np.random.default_rng(0)
    image = np.concatenate([rng.normal(0, 1, 900), rng.normal(5, 1.5, 700)])[rng.permutation(1600)].reshape(
        1, 40, 40
    )
    labels = build("pgm-generative", dims=2, in_channels=1, classes=2, beta=0.0, iterations=100).segment(
        image, (1, 1), None, classes=2
    )
    model = GaussianMixture(2, random_state=0).fit(image.reshape(-1, 1))
    peer = model.predict(image.reshape(-1, 1)) == np.argmax(model.means_[:, 0])
    assert (peer.reshape(40, 40) == (labels == 1)).mean() > 0.98


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", LEARNED)
def test_a_model_learns_texture_from_seeds(name: str, dims: int) -> None:
    truth = square(dims, 0.0)[1]
    image = np.random.default_rng(1).normal(0, np.where(truth, 40, 5))[None]
    found = build(name, dims=dims, in_channels=1, classes=2).segment(image, (1.0,) * dims, marks(dims)) == 1
    assert (found & truth).sum() / (found | truth).sum() > 0.5


def test_the_forest_alone_is_the_library_voxel_by_voxel() -> None:
    from sklearn.ensemble import RandomForestClassifier

    from medseg.zoo.classical.probabilistic.voxel_classifier import voxel_features

    image, _ = square(2, 60.0)
    found = build("pgm-discriminative", dims=2, in_channels=1, classes=2, weight=0.0, trees=20).segment(
        image, (1, 1), marks(2)
    )
    table = voxel_features(((image - image.mean()) / image.std()).astype(np.float32))
    seeds = marks(2).mask.ravel()
    rows = np.random.default_rng(0).permutation(np.flatnonzero(seeds))
    peer = RandomForestClassifier(
        20, max_depth=10, min_samples_leaf=2, class_weight="balanced", random_state=0
    )
    peer.fit(table[rows], (seeds == 1)[rows])
    sure = np.abs(peer.predict_proba(table)[:, 1] - 0.5) > 1e-9
    assert np.array_equal(found.ravel()[sure] == 1, peer.predict(table)[sure])


def case_of(image: np.ndarray, truth: np.ndarray | None) -> Case:
    grid = Geometry(shape=image.shape[1:], affine=np.eye(4))
    label = (
        None
        if truth is None
        else Segmentation(truth.astype(np.uint8), grid, (ClassInfo("tumour", 1, (255, 0, 0)),))
    )
    return Case("a", "a", lambda: Image(image, grid), None if label is None else lambda: label)


@pytest.mark.parametrize("name", LEARNED)
def test_what_was_learned_from_labelled_cases_is_used_on_the_next(name: str) -> None:
    image, truth = square(3, 30.0)
    method = build(name, dims=3, in_channels=1, classes=2)
    method.fit([case_of(image, truth), case_of(image, None)])
    other = image + np.random.default_rng(9).normal(0, 10, image.shape)
    found = method.segment(other, (1, 1, 1)) == 1
    assert (found & truth).sum() / (found | truth).sum() > 0.85
    assert method.classes == {1: "tumour"}
    with pytest.raises(UserError, match="no labelled case with two classes"):
        build(name, dims=3, in_channels=1, classes=2).fit([case_of(image, None)])
    whole, part = case_of(image, truth), case_of(image[:, :10], truth[:10])
    with pytest.raises(UserError, match="label of"):
        build(name, dims=3, in_channels=1, classes=2).fit([replace(whole, reader=part.reader)])


@pytest.mark.parametrize("name", LEARNED)
def test_a_model_without_seeds_or_cases_says_what_it_needs(name: str) -> None:
    with pytest.raises(UserError, match="needs a prompt"):
        build(name, dims=2, in_channels=1, classes=2).segment(square(2, 1.0)[0], (1, 1))


def test_the_tree_of_features_is_the_exhaustive_best() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, 2000)
    cells = np.stack([first, (first + (rng.random(2000) < 0.2)) % 4, rng.integers(0, 4, 2000)], axis=1)
    cells = np.concatenate([cells, ((cells[:, 1:2] + (rng.random((2000, 1)) < 0.3)) % 4)], axis=1)
    information = conditional_information(cells, rng.integers(0, 2, 2000), 4)
    parents = best_tree(information)
    found = sum(information[i, p] for i, p in enumerate(parents) if p >= 0)
    best = 0.0
    for order in permutations(range(4)):
        for choice in product(*[range(n) for n in range(1, 4)]):
            total = sum(information[order[n + 1], order[c]] for n, c in enumerate(choice))
            best = max(best, total)
    assert found == pytest.approx(best)
    assert sum(p < 0 for p in parents) == 1


def test_a_tied_pair_of_features_is_told_apart_where_naive_bayes_is_blind() -> None:
    from sklearn.naive_bayes import GaussianNB

    rng = np.random.default_rng(0)
    one = rng.normal(size=4000)
    truth = np.repeat([0, 1], 2000)
    other = np.where(truth == 1, one, -one) + rng.normal(0, 0.1, 4000)
    table = np.stack([one, other], axis=1).astype(np.float32)
    network = TreeNetwork()
    found = network.probabilities(network.learn(table, truth), table, 2).argmax(axis=1)
    assert (found == truth).mean() > 0.85
    assert (GaussianNB().fit(table, truth).predict(table) == truth).mean() < 0.6


def test_wrong_arguments_of_fields_are_named() -> None:
    image, _ = square(2, 5.0)
    with pytest.raises(UserError, match="did you mean expansion"):
        build("mrf-potts", dims=2, in_channels=1, classes=2, solver="expansoin").segment(image, (1, 1))
    with pytest.raises(UserError, match="classes is 40"):
        build("crf-grid", dims=2, in_channels=1, classes=2).segment(image, (1, 1), None, classes=40)
    with pytest.raises(UserError, match="two weights, and three widths"):
        build("crf-dense", dims=2, in_channels=1, classes=2, theta=(1.0, 0.0, 3.0)).segment(image, (1, 1))
    with pytest.raises(UserError, match="class 3, this method tells 1"):
        build("mrf-potts", dims=2, in_channels=1, classes=2).segment(
            image, (1, 1), Prompt(points=np.array([[1.0, 1], [5, 5]]), point_classes=np.array([3, 0]))
        )


def test_links_of_a_grid_are_counted_once() -> None:
    assert sum(k.weight.size for k in links((4, 5, 6), (1, 1, 1))) == 3 * 5 * 6 + 4 * 4 * 6 + 4 * 5 * 5
    assert sum(k.weight.size for k in links((2, 2), (1, 1), diagonals=True)) == 6
