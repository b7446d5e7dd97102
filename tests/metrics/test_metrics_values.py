"""Every metric against values worked by hand, brute force, another implementation, and nnU-Net's table."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medseg.core.errors import UserError
from medseg.metrics import objects, overlap, surface, volumes
from medseg.metrics.pair import Pair
from medseg.metrics.table import METRICS, column_name, find_metric, row_of_column

ORACLES = Path(__file__).parents[1] / "oracles"
SPACING = (1.5, 0.8, 0.8)


def box(shape, low, size):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = True
    return mask


def blobs(seed, shape=(14, 18, 16), share=0.3):
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2)
    return smooth > np.quantile(smooth, 1 - share)


def brute_force(pred, true, spacing):
    """Both directed lists of surface distances, all points against all points."""
    points = []
    for mask in (pred, true):
        eroded = ndimage.binary_erosion(mask, ndimage.generate_binary_structure(mask.ndim, 1))
        points.append(np.argwhere(mask & ~eroded) * np.asarray(spacing))
    table = np.linalg.norm(points[0][:, None] - points[1][None], axis=2)
    return table.min(axis=1), table.min(axis=0)


# --- against others -----------------------------------------------------------------------------------------------


def test_counts_and_dice_equal_nnunets_table():
    table = np.load(ORACLES / "evaluation.npz")
    for row in json.loads((ORACLES / "evaluation.json").read_text()):
        pair = Pair.of(table["pred"] == row["class"], table["ref"] == row["class"])
        counts = pair.true_positives, pair.false_positives, pair.false_negatives
        assert counts == (row["TP"], row["FP"], row["FN"])
        assert overlap.dice(pair) == row["Dice"]


def test_the_largest_structure_is_nnunets():
    table = np.load(ORACLES / "evaluation.npz")
    pred = table["pred"]
    assert np.array_equal(np.where(objects.keep_largest(pred > 0), pred, 0), table["keep_all_foreground"])
    for value in (1, 2):
        kept = np.where((pred != value) | objects.keep_largest(pred == value), pred, 0)
        assert np.array_equal(kept, table[f"keep_class_{value}"])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dims", [2, 3])
def test_surface_distances_equal_brute_force(seed, dims):
    shape, spacing = ((14, 18, 16)[:dims], SPACING[:dims])
    pred, true = blobs(seed, shape), blobs(seed + 100, shape)
    there, back = brute_force(pred, true, spacing)
    pair = Pair.of(pred, true, spacing)
    assert surface.hd(pair) == pytest.approx(max(there.max(), back.max()), abs=1e-12)
    assert surface.hd95(pair) == pytest.approx(
        max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-12
    )
    assert surface.assd(pair) == pytest.approx(np.concatenate([there, back]).mean(), abs=1e-12)
    share = (np.concatenate([there, back]) <= 1.0).mean()
    assert surface.nsd(pair, tolerance=1.0) == pytest.approx(share, abs=1e-12)


def test_surface_distances_equal_monai():
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    for seed in range(3):
        pred, true = blobs(seed), blobs(seed + 50)
        pair = Pair.of(pred, true, SPACING)
        one_hot = [torch.from_numpy(np.stack([~m, m])[None].astype(np.float32)) for m in (pred, true)]
        shared = {"spacing": SPACING, "include_background": False}
        assert surface.hd95(pair) == pytest.approx(
            compute_hausdorff_distance(*one_hot, percentile=95, **shared).item(), abs=1e-4
        )
        assert surface.hd(pair) == pytest.approx(
            compute_hausdorff_distance(*one_hot, **shared).item(), abs=1e-4
        )
        assert surface.assd(pair) == pytest.approx(
            compute_average_surface_distance(*one_hot, symmetric=True, **shared).item(), abs=1e-4
        )
        assert surface.nsd(pair, tolerance=1.0) == pytest.approx(
            compute_surface_dice(*one_hot, class_thresholds=[1.0], **shared).item(), abs=1e-4
        )


@pytest.mark.parametrize("without_edt", [False, True])
def test_tree_and_distance_transform_agree(without_edt, monkeypatch):
    if without_edt:
        monkeypatch.setitem(sys.modules, "edt", None)
    ours, theirs = surface.surface(blobs(1)), surface.surface(blobs(2))
    steps = np.diag(SPACING)
    by_tree = surface.distances_by_tree(ours, theirs, steps)
    by_transform = surface.distances_by_transform(ours, theirs, steps)
    for one, other in zip(by_tree, by_transform, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_masks_that_are_mostly_surface_are_measured_the_same(monkeypatch):
    pred, true = blobs(1), blobs(2)
    usual = surface.hd95(Pair.of(pred, true, SPACING))
    monkeypatch.setattr(surface, "MANY", 0)
    assert surface.hd95(Pair.of(pred, true, SPACING)) == pytest.approx(usual, abs=1e-5)
    sheared = np.diag(SPACING)
    sheared[0, 1] = 0.1
    monkeypatch.setattr(surface, "distances_by_transform", None)
    assert surface.hd95(Pair.of(pred, true, sheared)) > 0


# --- by hand ------------------------------------------------------------------------------------------------------


def test_two_boxes_three_millimetres_apart():
    """Boxes of 2 x 2 x 2 voxels of 1.5 x 0.8 x 0.8 mm, shifted by two voxels of 1.5 mm."""
    pair = Pair.of(box((8, 8, 8), (0, 2, 2), (2, 2, 2)), box((8, 8, 8), (2, 2, 2), (2, 2, 2)), SPACING)
    assert surface.hd(pair) == pytest.approx(3.0)
    assert surface.assd(pair) == pytest.approx(2.25)
    assert surface.nsd(pair, tolerance=1.5) == pytest.approx(0.5)
    assert overlap.dice(pair) == overlap.iou(pair) == 0.0


def test_a_tolerance_equal_to_a_distance_counts_as_within():
    pair = Pair.of(box((4, 9), (1, 1), (1, 1)), box((4, 9), (1, 4), (1, 1)), (1.0, 0.1 * 3))
    assert surface.hd(pair) == pytest.approx(0.9)
    assert surface.nsd(pair, tolerance=0.9) == 1.0


def test_spacing_scales_distances_and_volumes():
    pred, true = blobs(3), blobs(4)
    once, twice = Pair.of(pred, true, (1, 1, 1)), Pair.of(pred, true, (2, 2, 2))
    assert surface.hd95(twice) == pytest.approx(2 * surface.hd95(once))
    assert volumes.volume(twice) == pytest.approx(8 * volumes.volume(once))


def test_a_sheared_grid_is_measured_along_its_true_axes():
    """Axis 1 leans into axis 0: one step along it is (0.5, 1) mm, so two steps are sqrt(5) mm, not 2."""
    steps = np.array([[1.0, 0.0], [0.5, 1.0]])
    pair = Pair.of(box((5, 5), (1, 1), (1, 1)), box((5, 5), (1, 3), (1, 1)), steps)
    assert surface.hd(pair) == pytest.approx(np.sqrt(5))
    assert volumes.volume(pair) == pytest.approx(1.0)
    assert pair.diagonal == pytest.approx(np.hypot(5 + 2.5, 5))


def test_a_box_of_one_millilitre_has_one_millilitre():
    mask = box((20, 20, 8), (3, 4, 2), (10, 10, 4))
    pair = Pair.of(mask, mask, (1, 1, 2.5))
    assert volumes.volume(pair) == volumes.reference_volume(pair) == 1.0
    assert volumes.volume_error(pair) == volumes.volume_error_percent(pair) == 0.0


def test_lesions_are_matched_one_to_one():
    """One large prediction over three small lesions finds one of them, not three."""
    true = np.zeros((3, 12), dtype=bool)
    true[1, [1, 5, 9]] = True
    pred = np.zeros_like(true)
    pred[1, 0:11] = True
    assert objects.match_lesions(Pair.of(pred, true), min_iou=0.05) == (1, 2, 0)
    assert objects.match_lesions(Pair.of(true, true)) == (3, 0, 0)
    assert objects.match_lesions(Pair.of(np.roll(true, 2, 1), true)) == (0, 3, 3)
    assert objects.lesion_f1(Pair.of(true, true)) == 1.0


def test_structures_that_touch_at_a_corner_are_one():
    assert objects.components(np.eye(4, dtype=bool))[1] == 1


def test_equal_structures_keep_the_first():
    assert objects.keep_largest(np.array([1, 1, 0, 1, 1], dtype=bool)).tolist() == [1, 1, 0, 0, 0]


# --- what holds for all -------------------------------------------------------------------------------------------

every_metric = pytest.mark.parametrize("row", METRICS.values(), ids=METRICS)


@every_metric
def test_cutting_to_the_box_changes_nothing(row):
    pred, true = blobs(5), blobs(6)
    wide = [np.pad(mask, 7) for mask in (pred, true)]
    # padding first: at the edge of the image the surface is the same by definition
    assert row.measure(Pair.of(*wide, SPACING)) == pytest.approx(
        row.measure(Pair.of(pred, true, SPACING)), abs=1e-12
    )


@every_metric
def test_values_lie_in_the_published_range(row):
    for seed in range(5):
        for share in (0.05, 0.3, 0.9):
            value = row.measure(Pair.of(blobs(seed, share=share), blobs(seed + 9), SPACING))
            low, high = row.range
            assert low is None or value >= low
            assert high is None or value <= high


@every_metric
def test_a_perfect_mask_scores_best(row):
    mask = blobs(7)
    perfect = row.measure(Pair.of(mask, mask, SPACING))
    worse = row.measure(Pair.of(blobs(8, share=0.2), mask, SPACING))
    if row.better is not None:
        assert row.badness(perfect) < row.badness(worse)
        assert row.badness(perfect) == (-1.0 if row.better == "high" else 0.0)


@pytest.mark.parametrize("name", ["dice", "iou", "hd_mm", "hd95_mm", "assd_mm", "nsd", "lesion_f1"])
def test_symmetric_metrics_do_not_care_which_mask_is_which(name):
    measure = METRICS[name].measure
    a, b = blobs(10), blobs(11)
    assert measure(Pair.of(a, b, SPACING)) == pytest.approx(measure(Pair.of(b, a, SPACING)), abs=1e-12)


@every_metric
def test_two_empty_masks_are_undefined_or_of_no_volume(row):
    nothing = np.zeros((4, 5, 6), dtype=bool)
    expected = 0.0 if row.both_empty == "0" else None
    assert row.measure(Pair.of(nothing, nothing, SPACING)) == expected


@pytest.mark.parametrize("row", [row for row in METRICS.values() if row.better], ids=lambda row: row.name)
@pytest.mark.parametrize("dims", [2, 3])
def test_no_prediction_is_worse_than_a_miss(row, dims):
    """The monotony behind every mean: whatever was predicted, predicting nothing instead never looks better."""
    shape, spacing = (14, 18, 16)[:dims], SPACING[:dims]
    true = box(shape, (2,) * dims, (3,) * dims)
    missed = row.badness(row.measure(Pair.of(np.zeros(shape, dtype=bool), true, spacing)))
    corner = box(shape, tuple(n - 1 for n in shape), (1,) * dims)
    for pred in (true, ~true, np.ones(shape, dtype=bool), corner, blobs(12, shape), blobs(13, shape, 0.02)):
        assert row.badness(row.measure(Pair.of(pred, true, spacing))) <= missed


def test_an_invented_structure_gives_the_worst_value_too():
    shape = (3, 4)
    pair = Pair.of(box(shape, (0, 0), (1, 1)), np.zeros(shape, dtype=bool))
    values = {name: row.measure(pair) for name, row in METRICS.items()}
    assert values["dice"] == values["iou"] == values["precision"] == values["recall"] == values["nsd"] == 0.0
    assert values["hd95_mm"] == values["hd_mm"] == values["assd_mm"] == 5.0
    assert values["volume_error_percent"] == 100.0


# --- names and wrong input ----------------------------------------------------------------------------------------


def test_columns_carry_the_unit_of_the_grid():
    names = {name: column_name(row, "px", 2) for name, row in METRICS.items()}
    assert (names["hd95_mm"], names["volume_ml"], names["volume_error_ml"]) == (
        "hd95_px",
        "area_px",
        "area_error_px",
    )
    assert names["volume_error_percent"] == "volume_error_percent"
    assert all(column_name(row, "mm", 3) == name for name, row in METRICS.items())
    assert row_of_column("hd95_px") is METRICS["hd95_mm"]
    assert row_of_column("area_error_mm2") is METRICS["volume_error_ml"]
    assert row_of_column("patient") is None


def test_a_misspelt_metric_is_answered_with_the_nearest_name():
    with pytest.raises(UserError, match="no metric named 'hd59', did you mean hd95"):
        find_metric("hd59")
    assert find_metric("Surface Dice") is METRICS["nsd"]


def test_masks_of_different_shape_are_refused_with_both_shapes():
    with pytest.raises(UserError, match=re.escape("masks of shape (3, 3) and (3, 4)")):
        Pair.of(np.ones((3, 3)), np.ones((3, 4)))


@pytest.mark.parametrize("spacing", [(1.0,), (1.0, 0.0), (1.0, float("nan"))])
def test_a_spacing_that_cannot_be_is_refused_with_its_values(spacing):
    with pytest.raises(UserError, match=re.escape(f"spacing {list(spacing)}")):
        Pair.of(np.ones((2, 2)), np.ones((2, 2)), spacing)
