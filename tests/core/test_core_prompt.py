"""A prompt checks itself, says how much it holds, and can be joined."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt, joined


def test_points_need_a_class_each() -> None:
    with pytest.raises(UserError, match=r"points of shape \(2, 3\) with classes of shape \(1,\)"):
        Prompt(points=np.zeros((2, 3)), point_classes=np.array([1]))


def test_boxes_have_two_corners_and_are_of_class_1_where_nobody_says() -> None:
    assert Prompt(boxes=np.zeros((1, 2, 3))).box_classes.tolist() == [1]
    with pytest.raises(UserError, match=r"boxes of shape \(1, 3, 2\)"):
        Prompt(boxes=np.zeros((1, 3, 2)))


def test_classes_and_counts_leave_out_background() -> None:
    mask = np.array([[0, 3], [255, 255]], dtype=np.uint8)
    prompt = Prompt(points=np.zeros((2, 2)), point_classes=np.array([0, 1]), mask=mask)
    assert prompt.classes == (1, 3)
    assert prompt.counts == {"points": 2, "voxels": 3}


def test_classes_are_renamed_everywhere_and_background_stays() -> None:
    prompt = Prompt(
        points=np.zeros((2, 2)),
        point_classes=np.array([0, 1]),
        boxes=np.zeros((1, 2, 2)),
        scribbles=((np.zeros((2, 2)), 1),),
        mask=np.array([[0, 1], [255, 2]], dtype=np.uint8),
    )
    other = prompt.with_classes({1: 2, 2: 1})
    assert other.point_classes.tolist() == [0, 2]
    assert other.box_classes.tolist() == [2]
    assert other.scribbles[0][1] == 2
    assert other.mask is not None
    assert other.mask.tolist() == [[0, 2], [255, 1]]


def test_two_prompts_become_one_and_two_masks_do_not() -> None:
    points = Prompt(points=np.zeros((1, 2)), point_classes=np.array([1]), source="a")
    mask = Prompt(mask=np.ones((2, 2), dtype=np.uint8), source="b")
    whole = joined([points, mask])
    assert whole.counts == {"points": 1, "voxels": 4}
    assert whole.source == "a, b"
    with pytest.raises(UserError, match="two masks of scribbles"):
        joined([mask, mask])
