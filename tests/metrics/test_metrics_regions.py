"""Covering and boundary F: values worked by hand, an exhaustive matching, and people against each other on BSDS500."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from medseg.metrics.boundaries import (
    BoundaryCounts,
    boundary_counts,
    boundary_of,
    corresponding,
    tolerance_px,
)
from medseg.metrics.regions import connected, covering


def halves(at: int) -> np.ndarray:
    """A 20 x 20 image of two regions that meet at a column."""
    labels = np.zeros((20, 20), int)
    labels[:, at:] = 1
    return labels


def test_a_segmentation_covers_itself_whatever_its_numbers() -> None:
    labels = halves(8) + 2 * halves(8).T
    assert covering(labels, labels) == 1
    assert covering(np.array([7, 3, 9, 1])[labels], labels) == 1


def test_covering_weighs_each_reference_region_by_its_size() -> None:
    one = np.zeros((20, 20), int)
    # Both halves overlap the whole image by 1/2; a quarter and three quarters by 1/4 and 3/4.
    assert covering(one, halves(10)) == pytest.approx(0.5)
    assert covering(one, halves(5)) == pytest.approx(0.25 * 0.25 + 0.75 * 0.75)
    assert covering(halves(5), one) == pytest.approx(0.75)


def test_covering_equals_the_sum_written_out_on_random_labels() -> None:
    rng = np.random.default_rng(0)
    found, reference = rng.integers(0, 5, (2, 12, 13))
    total = 0.0
    for r in np.unique(reference):
        region = reference == r
        best = max(((found == f) & region).sum() / ((found == f) | region).sum() for f in np.unique(found))
        total += region.sum() * best
    assert covering(found, reference) == pytest.approx(total / found.size)


def test_regions_of_one_label_that_do_not_touch_are_told_apart() -> None:
    labels = np.array([[1, 0, 1], [1, 0, 1]])
    assert len(np.unique(connected(labels))) == 3
    assert len(np.unique(connected(np.array([[1, 0], [0, 1]])))) == 4, "corners do not connect"


def test_a_boundary_lies_left_of_a_change_and_is_one_pixel_wide() -> None:
    assert np.flatnonzero(boundary_of(halves(8))[10]).tolist() == [7]
    assert not boundary_of(np.zeros((5, 5), int)).any()


def test_a_line_within_the_tolerance_is_right_and_beyond_it_wrong() -> None:
    drawn = [boundary_of(halves(8))]
    near = boundary_counts(boundary_of(halves(10)), drawn, tolerance=2)
    assert (near.precision, near.recall, near.f) == (1, 1, 1)
    far = boundary_counts(boundary_of(halves(11)), drawn, tolerance=2)
    assert (far.precision, far.recall, far.f) == (0, 0, 0)


def test_a_doubled_line_pays_in_precision_because_pairs_are_one_to_one() -> None:
    double = boundary_of(halves(8)) | boundary_of(halves(10))
    counts = boundary_counts(double, [boundary_of(halves(9))], tolerance=2)
    assert (counts.precision, counts.recall) == (0.5, 1)


def test_a_pixel_is_right_if_anyone_drew_it_but_all_that_was_drawn_is_asked_for() -> None:
    drawn = [boundary_of(halves(8)), boundary_of(halves(15))]
    counts = boundary_counts(boundary_of(halves(8)), drawn, tolerance=1)
    assert (counts.precision, counts.recall) == (1, 0.5)
    assert counts.f == pytest.approx(2 / 3)


def test_as_many_pairs_are_found_as_there_can_be() -> None:
    """Against all assignments of small random point sets; taking the nearest first would find fewer."""
    rng = np.random.default_rng(4)
    for _ in range(15):
        found, drawn = (rng.random((2, 5, 5)) < 0.25).astype(bool)
        a, b = np.argwhere(found), np.argwhere(drawn)
        if not 0 < len(a) <= 7 or not 0 < len(b) <= 7:
            continue
        close = np.linalg.norm(a[:, None] - b[None], axis=-1) <= 1.5
        few = close if len(a) <= len(b) else close.T
        orders = permutations(range(few.shape[1]), len(few))
        best = max(sum(few[i, j] for i, j in enumerate(order)) for order in orders)
        ours, theirs = corresponding(found, drawn, 1.5)
        assert ours.sum() == theirs.sum() == best
        assert not (ours & ~found).any()


def test_counts_of_images_add_up() -> None:
    total = BoundaryCounts(1, 2, 3, 4) + BoundaryCounts(5, 6, 7, 8)
    assert total == BoundaryCounts(6, 8, 10, 12)
    assert BoundaryCounts().f == 0


def test_people_agree_with_each_other_about_as_published(shared_data: Path) -> None:
    """People reach F = 0.80 and a covering of 0.72 on all of BSDS500 (Arbelaez et al. 2011); here on one photograph."""
    from skimage.io import imread

    folder = shared_data / "bsds" / "test" / "segmentations"
    people = [imread(p).astype(int) for p in sorted(folder.glob("100007_*.png"))]
    lines = [boundary_of(person) for person in people]
    counts = boundary_counts(lines[0], lines[1:], tolerance_px(lines[0].shape))
    assert 0.65 < counts.f < 0.95
    assert 0.5 < covering(people[0], people[1]) < 1
