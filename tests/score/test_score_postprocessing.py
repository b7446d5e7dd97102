"""Post-processing is kept where it helps on predictions of unseen cases, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo
from medseg.predict.postprocess import apply_steps
from medseg.score.postprocessing import Compared, Table, decide, dice_of_variants

CLASSES = (ClassInfo("liver", 1, (9, 9, 9)), ClassInfo("tumour", 2, (99, 9, 9)))
Boxes = list[tuple[int, int]]


def mask(*boxes: tuple[int, int], holes: Boxes | None = None) -> np.ndarray:
    """Cubes (corner, size) in a volume of 20^3, with holes cut out."""
    out = np.zeros((20, 20, 20), bool)
    for corner, size in boxes:
        out[corner : corner + size, corner : corner + size, corner : corner + size] = True
    for corner, size in holes or []:
        out[corner : corner + size, corner : corner + size, corner : corner + size] = False
    return out


def table_of(*cases: Compared) -> Table:
    table: Table = {}
    for number, case in enumerate(cases):
        for key, dice in dice_of_variants(case).items():
            table.setdefault(key, {})[f"case-{number}"] = dice
    return table


def kept(table: Table, classes: tuple[str, ...] = ("liver", "tumour")) -> list[tuple[str, str]]:
    return [(step["step"], step["class"]) for step in decide(table, classes)[0]]


def test_islands_far_from_the_organ_are_removed_where_that_helps() -> None:
    case = Compared({"liver": mask((2, 8), (16, 2))}, {"liver": mask((2, 8))}, None, exclusive=True)
    table = table_of(case)
    assert kept(table, ("liver",)) == [("keep_largest", "liver")]
    assert table["liver", (False, True, False)]["case-0"] == 1.0
    assert table["liver", (False, False, False)]["case-0"] < 1.0


def test_a_class_of_several_true_parts_keeps_them() -> None:
    # Two true tumours: keeping the largest alone would hurt.
    case = Compared(
        {"tumour": mask((2, 5), (12, 4))}, {"tumour": mask((2, 5), (12, 4))}, None, exclusive=True
    )
    steps, tried = decide(table_of(case), ["tumour"])
    assert steps == []
    (largest,) = [one for one in tried if one["step"] == "keep_largest"]
    assert largest["after"] < largest["before"]
    assert largest["fell"] == ["tumour"]
    assert not largest["kept"]


def test_each_class_is_decided_for_itself() -> None:
    case = Compared(
        {"liver": mask((2, 7), (17, 2)), "tumour": mask((10, 2), (13, 2))},
        {"liver": mask((2, 7)), "tumour": mask((10, 2), (13, 2))},
        None,
        exclusive=True,
    )
    assert kept(table_of(case)) == [("keep_largest", "liver")]


def test_all_classes_together_only_where_none_falls() -> None:
    # A tumour touching the liver, and an island of both classes far away.
    whole = {"liver": mask((2, 7), (16, 2)), "tumour": mask((9, 2), (18, 2))}
    truth = {"liver": mask((2, 7)), "tumour": mask((9, 2))}
    helps = Compared(whole, truth, None, exclusive=True)
    assert kept(table_of(helps))[0] == ("keep_largest_of_all", "")
    # The same prediction, but the far tumour is a true one: the tumour would fall although the mean rises.
    hurts = Compared(whole, {**truth, "tumour": mask((9, 2), (18, 2))}, None, exclusive=True)
    assert ("keep_largest_of_all", "") not in kept(table_of(hurts))


def test_holes_are_filled_where_that_helps_and_left_where_they_are_true() -> None:
    hole = [(5, 2)]
    wrong = Compared({"liver": mask((2, 8), holes=hole)}, {"liver": mask((2, 8))}, None, exclusive=True)
    assert kept(table_of(wrong), ("liver",)) == [("fill_holes", "liver")]
    right = Compared(
        {"liver": mask((2, 8), holes=hole)}, {"liver": mask((2, 8), holes=hole)}, None, exclusive=True
    )
    assert kept(table_of(right), ("liver",)) == []


def test_a_hole_that_holds_another_class_stays_that_class() -> None:
    case = Compared(
        {"liver": mask((2, 8), holes=[(5, 2)]), "tumour": mask((5, 2))},
        {"liver": mask((2, 8)), "tumour": mask((5, 2))},
        None,
        exclusive=True,
    )
    table = table_of(case)
    assert table["liver", (False, False, True)] == table["liver", (False, False, False)]


def test_the_mean_over_cases_decides_not_one_case() -> None:
    helps = Compared({"liver": mask((2, 8), (16, 2))}, {"liver": mask((2, 8))}, None, exclusive=True)
    hurts = Compared({"liver": mask((2, 5), (12, 5))}, {"liver": mask((2, 5), (12, 5))}, None, exclusive=True)
    assert kept(table_of(helps, helps, helps), ("liver",)) == [("keep_largest", "liver")]
    assert kept(table_of(helps, helps, helps, hurts), ("liver",)) == []


def test_voxels_that_do_not_count_decide_nothing() -> None:
    island = mask((16, 2))
    case = Compared({"liver": mask((2, 8), (16, 2))}, {"liver": mask((2, 8))}, ~island, exclusive=True)
    assert kept(table_of(case), ("liver",)) == []


def test_a_class_absent_in_both_masks_has_no_say() -> None:
    empty = np.zeros((20, 20, 20), bool)
    case = Compared(
        {"liver": mask((2, 8), (16, 2)), "tumour": empty},
        {"liver": mask((2, 8)), "tumour": empty},
        None,
        True,
    )
    table = table_of(case)
    assert not [key for key in table if key[0] == "tumour"]
    assert kept(table) == [("keep_largest", "liver")]


def test_what_was_chosen_is_what_prediction_does() -> None:
    predicted = {"liver": mask((2, 8), (16, 2), holes=[(5, 2)]), "tumour": mask((11, 2), (19, 1))}
    truth = {"liver": mask((2, 8)), "tumour": mask((11, 2))}
    table = table_of(Compared(predicted, truth, None, exclusive=True))
    steps, _ = decide(table, ["liver", "tumour"])
    labels = np.zeros((20, 20, 20), np.uint8)
    for info in CLASSES:
        labels[predicted[info.name]] = info.index
    notes = apply_steps(labels, None, CLASSES, steps)
    for info in CLASSES:
        assert np.array_equal(labels == info.index, truth[info.name])
    assert len(notes) == len(steps) > 0


def test_regions_that_overlap_are_each_treated_alone() -> None:
    regions = np.stack([mask((2, 8), (16, 2)), mask((4, 3))])
    labels = np.zeros((20, 20, 20), np.uint8)
    apply_steps(labels, regions, CLASSES, [{"step": "keep_largest", "class": "liver"}])
    assert np.array_equal(regions[0], mask((2, 8)))
    assert np.array_equal(regions[1], mask((4, 3)))


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"step": "keep_largst", "class": "liver"}, "did you mean keep_largest"),
        ({"step": "keep_largest", "class": "livr"}, "did you mean liver"),
    ],
)
def test_unknown_steps_and_classes_are_named(step: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        apply_steps(np.zeros((4, 4, 4), np.uint8), None, CLASSES, [step])
