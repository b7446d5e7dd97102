"""Clusters are what their definitions say, and superpixels follow edges in millimetres."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.classical.clustering.kmeans import grouped
from medseg.zoo.classical.clustering.meanshift import modes
from medseg.zoo.classical.clustering.regions import adjacency, at_most, means, slic
from medseg.zoo.classical.clustering.spectral import spectral_groups
from medseg.zoo.classical.clustering.superpixels import over_segmentation
from medseg.zoo.classical.features import standardised

CLUSTERING = (
    "cluster-kmeans",
    "cluster-spectral",
    "cluster-meanshift",
    "superpixel-slic",
    "superpixel-generic",
)
FINE = ("cluster-kmeans", "cluster-spectral")  # three clusters may split the bright one


def method(name: str, dims: int = 2, **arguments: object):
    return build(name, dims=dims, in_channels=1, classes=2, **arguments)


def bright_box(dims: int, noise: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    truth = np.zeros((24,) * dims, dtype=bool)
    truth[(slice(6, 18),) * dims] = True
    return (np.random.default_rng(0).normal(0, noise, truth.shape) + 100 * truth)[None], truth


@pytest.mark.parametrize("seed", range(3))
def test_k_means_in_two_clusters_is_the_exhaustive_minimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grey = np.sort(np.concatenate([rng.normal(0, 1, 60), rng.normal(4, 2, 40)]))
    best = min(grey[:n].var() * n + grey[n:].var() * (len(grey) - n) for n in range(1, len(grey)))
    found = grouped(grey[:, None].astype(np.float32), 2)
    parts = [grey[found == k] for k in (0, 1)]
    assert sum(p.var() * p.size for p in parts) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CLUSTERING)
def test_a_bright_box_is_found_and_named_the_brightest(name: str, dims: int) -> None:
    image, truth = bright_box(dims)
    arguments = {"bandwidth": 1.0} if name == "cluster-meanshift" else {}
    labels = method(name, dims, **arguments).segment(image, (1.0,) * dims)
    found = labels == labels.max()
    assert (found & truth).sum() / (found | truth).sum() > (0.4 if name in FINE else 0.9)
    assert not (found & ~truth).sum() > 0.1 * truth.sum()
    again = method(name, dims, **arguments).segment(image, (1.0,) * dims)
    assert np.array_equal(labels, again), "the same image, the same labels"


def test_the_place_of_a_voxel_counts_when_asked() -> None:
    image = np.random.default_rng(0).normal(0, 1, (1, 20, 40))
    labels = method("cluster-kmeans", clusters=2, place_weight=20.0).segment(image, (1, 1))
    assert {len(np.unique(column)) for column in labels.T} == {1}, (
        "clusters are two halves, whatever the noise"
    )


def test_spectral_clustering_tells_two_rings_apart_where_k_means_cannot() -> None:
    angle = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    table = np.concatenate([ring, 3 * ring])
    truth = np.repeat([0, 1], 80)
    found = spectral_groups(table, 2, scale=0.08)
    assert len({*zip(truth, found, strict=True)}) == 2
    assert len({*zip(truth, grouped(table.astype(np.float32), 2), strict=True)}) > 2


def test_spectral_clustering_agrees_with_scikit_learn() -> None:
    from scipy.spatial.distance import pdist, squareform
    from sklearn.cluster import SpectralClustering

    rng = np.random.default_rng(1)
    table = np.concatenate([rng.normal(c, 0.4, (30, 2)) for c in (0, 3, 6)])
    likeness = np.exp(-(squareform(pdist(table)) ** 2) / (2 * (0.5 * np.median(pdist(table))) ** 2))
    peer = SpectralClustering(3, affinity="precomputed", random_state=0).fit_predict(likeness)
    assert len({*zip(peer, spectral_groups(table, 3), strict=True)}) == 3


def test_mean_shift_finds_as_many_modes_as_there_are_heaps() -> None:
    rng = np.random.default_rng(0)
    table = np.concatenate([rng.normal(c, 0.1, (50, 1)) for c in (0, 2, 5, 9)])
    found = modes(table, bandwidth=0.8)
    assert [len(np.unique(found[n : n + 50])) for n in (0, 50, 100, 150)] == [1] * 4
    assert len(np.unique(found)) == 4


def test_small_groups_join_the_nearest_large_one() -> None:
    groups = np.array([0, 1, 2, 3])
    found = at_most(groups, np.array([[0.0], [10.0], [9.0], [1.0]]), np.array([50, 40, 2, 1]), 2)
    assert found[2] == found[1]
    assert found[3] == found[0]


def test_superpixels_equal_the_library_and_do_not_cross_a_strong_edge() -> None:
    from skimage.segmentation import slic as library

    image, truth = bright_box(2, noise=1.0)
    regions = slic(image, (1, 1), 30)
    values = standardised(image)
    peer = library(
        values[0],
        n_segments=30,
        compactness=0.3 / np.ptp(values),
        start_label=0,
        channel_axis=None,
        spacing=(1, 1),
    )
    assert np.array_equal(regions, np.unique(peer, return_inverse=True)[1].reshape(peer.shape))
    share = means(regions, truth[None])[:, 0]
    assert set(share) <= {0.0, 1.0}


def test_supervoxels_are_as_long_in_millimetres_along_every_axis() -> None:
    image = np.random.default_rng(0).normal(size=(1, 40, 40, 10))
    regions = slic(image, (1.0, 1.0, 4.0), 64, compactness=3.0)
    extent = [np.ptp(np.argwhere(regions == r), axis=0) + 1 for r in np.unique(regions)]
    wide, _, deep = np.mean(extent, axis=0)
    assert deep * 4 == pytest.approx(wide, rel=0.25)


def test_neighbours_are_counted_by_shared_faces() -> None:
    pairs, faces = adjacency(np.array([[0, 0, 1], [0, 2, 1]]))
    assert {tuple(p): f for p, f in zip(pairs.tolist(), faces, strict=True)} == {
        (0, 1): 1,
        (0, 2): 2,
        (1, 2): 1,
    }


def test_each_region_keeps_its_own_number_when_asked_and_too_many_are_refused() -> None:
    image, _ = bright_box(2)
    labels = method("superpixel-slic", segments=20, groups=0).segment(image, (1, 1))
    assert labels.min() == 1
    assert labels.max() > 10
    with pytest.raises(UserError, match="a label image holds 255"):
        method("superpixel-slic", segments=900, groups=0, compactness=20.0).segment(
            np.random.default_rng(0).normal(size=(1, 120, 120)), (1, 1)
        )


@pytest.mark.parametrize("cut", ["felzenszwalb", "quickshift", "watershed", "slic"])
def test_every_way_to_cut_covers_the_image_with_regions(cut: str) -> None:
    image, _ = bright_box(2, noise=1.0)
    regions = over_segmentation(np.repeat(image, 3, axis=0), (1, 1), cut, 40)
    assert set(np.unique(regions)) == set(range(regions.max() + 1))
    inner = regions[8:16, 8:16]
    assert set(np.unique(inner)).isdisjoint(regions[0])


def test_wrong_numbers_of_clusters_and_unknown_ways_are_named() -> None:
    two = np.arange(4.0).reshape(1, 2, 2)
    with pytest.raises(UserError, match="clusters is 5, the image has 4 voxels"):
        method("cluster-kmeans", clusters=5).segment(two, (1, 1))
    with pytest.raises(UserError, match="clusters is 0"):
        method("cluster-spectral", clusters=0).segment(two, (1, 1))
    with pytest.raises(UserError, match="did you mean watershed"):
        method("superpixel-generic", cut="watersched").segment(two, (1, 1))
    with pytest.raises(UserError, match="2D images only"):
        method("superpixel-generic", 3, cut="quickshift").segment(np.zeros((1, 4, 4, 4)), (1, 1, 1))


@pytest.mark.parametrize("name", CLUSTERING)
def test_a_constant_image_is_all_background(name: str) -> None:
    assert not method(name).segment(np.full((1, 12, 12), 7.0), (1, 1)).any()
