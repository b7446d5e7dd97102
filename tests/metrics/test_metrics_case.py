"""Scoring one case: rows, reasons, ignored voxels, regions, unions, unknown classes, class matching, grids."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Code, Segmentation, paint
from medseg.metrics import docs
from medseg.metrics.case import ABSENT, INVENTED, MISSED, UNKNOWN, Scoring, score_case
from medseg.metrics.matching import match_classes
from medseg.metrics.table import METRICS

GRID = Geometry.from_spacing((10, 12, 8), (1.5, 1.0, 2.0))
LUNGS = (
    ClassInfo("left lung", 1, (9, 9, 9)),
    ClassInfo("right lung", 2, (8, 8, 8)),
    ClassInfo("heart", 3, (7, 7, 7)),
)


def labels(*boxes, shape=GRID.shape):
    """A label map of boxes (value, low, size)."""
    array = np.zeros(shape, dtype=np.uint8)
    for value, low, size in boxes:
        array[tuple(slice(a, a + n) for a, n in zip(low, size, strict=True))] = value
    return array


TRUE = Segmentation(labels((1, (0, 0, 0), (4, 4, 4)), (2, (6, 6, 2), (3, 3, 3))), GRID, LUNGS)


def predicted(*boxes, classes=LUNGS):
    return Segmentation(labels(*boxes), GRID, classes)


def by_class(rows):
    return {row["class"]: row for row in rows}


def test_each_class_has_a_row_with_counts_measures_and_a_reason():
    pred = predicted((1, (0, 0, 0), (4, 4, 2)), (3, (0, 8, 0), (2, 2, 2)))
    rows = by_class(
        score_case(pred, TRUE, Scoring(metrics=("dice", "hd95_mm", "volume_ml", "volume_error_ml")))
    )
    left, right, heart = (rows[name] for name in ("left lung", "right lung", "heart"))
    assert (left["tp"], left["fp"], left["fn"], left["reason"]) == (32, 0, 32, "")
    assert left["dice"] == pytest.approx(2 / 3)
    assert left["hd95_mm"] == pytest.approx(4.0)
    assert left["volume_ml"] == pytest.approx(0.096)
    assert left["volume_error_ml"] == pytest.approx(-0.096)
    assert (right["reason"], right["dice"]) == (MISSED, 0.0)
    assert right["hd95_mm"] == pytest.approx(np.linalg.norm(np.array(GRID.shape) * GRID.spacing))
    assert (heart["reason"], heart["dice"]) == (INVENTED, 0.0)


def test_a_class_in_neither_mask_has_no_score_and_a_reason():
    row = by_class(score_case(TRUE, TRUE))["heart"]
    assert row["reason"] == ABSENT
    assert row["dice"] is row["hd95_mm"] is row["volume_error_percent"] is None
    assert (row["tp"], row["fp"], row["fn"]) == (0, 0, 0)


def test_every_metric_of_the_table_can_be_asked_for():
    row = score_case(TRUE, TRUE, Scoring(metrics=tuple(METRICS)))[0]
    assert set(METRICS) < set(row)


def test_ignored_voxels_count_for_nobody():
    ignored = TRUE.labels.copy()
    ignored[0:4, 0:4, 2:4] = 9
    pred = predicted((1, (0, 0, 0), (4, 4, 4)), (2, (6, 6, 2), (3, 3, 3)))
    row = by_class(score_case(pred, Segmentation(ignored, GRID, LUNGS), Scoring(ignore=(9,))))["left lung"]
    assert (row["tp"], row["fp"], row["fn"], row["dice"]) == (32, 0, 0, 1.0)
    assert by_class(score_case(pred, Segmentation(ignored, GRID, LUNGS)))["left lung"]["fp"] == 32


def test_a_class_the_reference_does_not_cover_is_not_scored():
    pred = predicted((3, (0, 8, 0), (2, 2, 2)))
    row = by_class(score_case(pred, TRUE, Scoring(known=frozenset({"left lung", "right lung"}))))["heart"]
    assert (row["reason"], row["dice"], row["fp"]) == (UNKNOWN, None, None)


def test_a_union_of_classes_is_measured_as_one_structure():
    swapped = predicted((2, (0, 0, 0), (4, 4, 4)), (1, (6, 6, 2), (3, 3, 3)))
    scoring = Scoring(merge={"lungs": ["left lung", "right lung"], "nothing": ["spleen"]})
    rows = by_class(score_case(swapped, TRUE, scoring))
    assert rows["left lung"]["dice"] == 0.0
    assert (rows["lungs"]["dice"], rows["lungs"]["merged"]) == (1.0, True)
    assert "nothing" not in rows


def test_a_union_meets_a_class_of_the_same_name_on_the_other_side():
    """One system draws both lungs as one class, the reference has two."""
    whole = Segmentation((TRUE.labels > 0).astype(np.uint8), GRID, (ClassInfo("Lungs", 1, (1, 1, 1)),))
    scoring = Scoring(matches=(), merge={"lungs": ["left lung", "right lung"]})
    rows = score_case(whole, TRUE, scoring)
    assert [(row["class"], row["dice"]) for row in rows] == [("lungs", 1.0)]


def test_overlapping_regions_are_measured_whole():
    classes = (ClassInfo("lung", 1, (1, 1, 1)), ClassInfo("heart", 2, (2, 2, 2)))
    grid = Geometry.pixels((6, 6))
    regions = np.zeros((2, 6, 6), dtype=bool)
    regions[0, :4], regions[1, 2:] = True, True
    truth = Segmentation(paint(regions, classes), grid, classes, regions=regions)
    rows = score_case(truth, truth, Scoring(metrics=("dice", "hd95_mm", "volume_ml")))
    assert [row["dice"] for row in rows] == [1.0, 1.0]
    assert [row["area_px"] for row in rows] == [24.0, 24.0]
    assert rows[0]["hd95_px"] == 0.0
    assert rows[0]["unit"] == "px"


def test_small_boxes_and_whole_volumes_give_the_same_scores():
    rng = np.random.default_rng(0)
    grid = Geometry.from_spacing((20, 20, 20), (1, 1, 3))
    small = [Segmentation(rng.integers(0, 4, (20, 20, 20)).astype(np.uint8), grid, LUNGS) for _ in range(2)]
    as_regions = [
        Segmentation(s.labels, grid, LUNGS, regions=np.stack([s.mask(i) for i in range(3)])) for s in small
    ]
    assert score_case(*small) == score_case(*as_regions)


def test_a_class_with_the_value_zero_is_scored():
    """Photographs in which every pixel has a class."""
    classes = (ClassInfo("sky", 0, (1, 1, 1)), ClassInfo("road", 1, (2, 2, 2)))
    truth = Segmentation(np.array([[0, 0], [1, 1]], dtype=np.uint8), Geometry.pixels((2, 2)), classes)
    assert [row["dice"] for row in score_case(truth, truth)] == [1.0, 1.0]


def test_grids_that_differ_are_refused_with_both_grids_and_the_distance():
    moved = Geometry.from_spacing(GRID.shape, GRID.spacing, origin=(12.0, 0, 0))
    with pytest.raises(
        UserError, match=re.escape("the prediction and the reference are 12.00 mm apart")
    ) as caught:
        score_case(Segmentation(TRUE.labels, moved, LUNGS), TRUE, where="case 7")
    assert "10x12x8 voxels of 1.5x1x2 mm" in str(caught.value)
    assert "case 7" in str(caught.value)


def test_flipped_axes_are_refused_and_not_compared_voxel_by_voxel():
    affine = GRID.affine.copy()
    affine[0, 0] *= -1
    with pytest.raises(UserError, match="mm apart"):
        score_case(Segmentation(TRUE.labels, Geometry(GRID.shape, affine), LUNGS), TRUE)


def test_label_sets_without_a_common_class_are_refused_with_both_lists():
    other = Segmentation(TRUE.labels, GRID, (info("spleen", 1),))
    with pytest.raises(
        UserError, match=r"\(classes: spleen\) and the reference \(classes: left lung, right lung, heart\)"
    ):
        score_case(other, TRUE)


# --- matching of classes ------------------------------------------------------------------------------------------


def info(name, index, code=None, side=None):
    return ClassInfo(name, index, (0, 0, 0), None if code is None else Code(code, "SCT", name), side)


def test_foreign_names_and_numbers_score_the_same():
    foreign = (info("lung_left", 13), info("Herz", 40, "80891009"), info("Right Lung", 7))
    ours = (info("left lung", 1), info("right lung", 2), info("heart", 3, "80891009"))
    table = {1: 13, 2: 7, 3: 40}
    native = labels((1, (0, 0, 0), (4, 4, 4)), (2, (6, 6, 2), (3, 3, 3)), (3, (0, 8, 0), (2, 2, 2)))
    renamed = np.vectorize(lambda v: table.get(v, 0))(native).astype(np.uint8)
    truth = Segmentation(labels((1, (0, 0, 0), (4, 3, 4)), (2, (6, 6, 2), (3, 3, 2))), GRID, ours)
    assert score_case(Segmentation(renamed, GRID, foreign), truth) == score_case(
        Segmentation(native, GRID, ours), truth
    )


def test_classes_are_matched_by_code_then_name_then_number():
    pred = (info("A", 5, "1"), info("spleen", 6), info("class 7", 7), info("liver", 8))
    true = (info("B", 1, "1"), info("Spleen", 2), info("kidney", 7), info("gut", 8))
    matching = match_classes(pred, true)
    assert [(m.name, m.by) for m in matching.matches] == [
        ("B", "code"),
        ("Spleen", "name"),
        ("kidney", "number"),
    ]
    assert (matching.only_pred, matching.only_true) == (("liver",), ("gut",))


def test_a_class_that_one_side_does_not_have_can_be_scored_as_empty():
    pred = predicted((1, (0, 0, 0), (4, 4, 4)), classes=LUNGS[:1])
    matching = match_classes(pred.classes, TRUE.classes)
    rows = by_class(score_case(pred, TRUE, Scoring(matches=(*matching.matches, *matching.true_alone))))
    assert (rows["right lung"]["reason"], rows["right lung"]["index"]) == (MISSED, 2)
    assert [row["class"] for row in score_case(pred, TRUE)] == ["left lung"]


def test_one_code_with_two_sides_is_two_classes():
    pred = (info("lung right", 1, "39607008", "right"), info("lung left", 2, "39607008"))
    true = (info("L", 1, "39607008", "left"), info("R", 2, "39607008", "right"))
    assert [(m.pred, m.true) for m in match_classes(pred, true).matches] == [(1, 0), (0, 1)]


# --- the page and start-up ----------------------------------------------------------------------------------------


def test_the_page_of_metrics_is_the_one_the_table_prints():
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert page.read_text(encoding="utf-8").strip() == docs.render().strip(), "run: python docs/render.py"
    assert [name for name in METRICS if f"`{name}`" not in docs.render()] == []


def test_listing_metrics_loads_nothing_heavy():
    code = (
        "import sys, medseg.metrics.table as t; "
        "print([m for m in ('torch', 'scipy', 'pandas', 'skimage', 'monai') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
