"""Label values and class positions, there and back, and values that belong to no class."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.config import IntensityPlan, Plan
from medseg.core import ClassInfo, Geometry, Segmentation, UserError
from medseg.ingest.targets import IGNORED, classes_of, decode, encode, label_values, lost_classes


def _plan(indices, **more):
    classes = [ClassInfo(f"class {i}", i, (0, 0, 0)).as_json() for i in indices]
    return Plan(dims=3, in_channels=1, classes=classes, out_channels=len(indices) + 1,
                intensity=[IntensityPlan(scheme="none")], patch_size=[4] * 3, batch_size=1, **more)  # fmt: skip


def _seg(values, dtype=np.int32):
    labels = np.array(values, dtype).reshape(1, 1, -1)
    return Segmentation(labels, Geometry.from_spacing(labels.shape, (1, 1, 1)))


def test_any_integers_become_positions_and_come_back():
    plan = _plan([7, 300, 2])
    target = encode(_seg([0, 7, 300, 2, 7]), plan)
    assert target.ravel().tolist() == [0, 1, 2, 3, 1]
    assert decode(target, plan).ravel().tolist() == [0, 7, 300, 2, 7]
    assert decode(target, plan).dtype == np.uint16


def test_labels_of_one_byte_take_the_same_way():
    assert encode(_seg([0, 5, 5, 9], np.uint8), _plan([5, 9])).ravel().tolist() == [0, 1, 1, 2]


def test_values_far_apart_and_negative_ones_are_looked_up_too():
    plan = _plan([-3, 5, 10_000_000])
    assert encode(_seg([0, -3, 10_000_000, 5]), plan).ravel().tolist() == [0, 1, 3, 2]
    assert encode(_seg([0, -3, 5, 5]), plan).ravel().tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("order", ["C", "F"])
def test_values_are_counted_whatever_the_memory_order(order):
    labels = np.asarray(np.random.default_rng(0).integers(0, 4, (7, 5, 6)), dtype=np.int32, order=order)
    for kind in (np.int32, np.uint8):
        values, counts = label_values(labels.astype(kind))
        assert values.tolist() == [0, 1, 2, 3]
        assert counts.tolist() == [int((labels == v).sum()) for v in range(4)]


def test_without_background_positions_start_at_zero_and_unsaid_pixels_are_ignored():
    plan = _plan([0, 1, 2], background=False, ignore=11)
    assert encode(_seg([0, 1, 2, 11]), plan).ravel().tolist() == [0, 1, 2, IGNORED]
    assert decode(np.array([0, 2, 255], np.uint8), plan).tolist() == [0, 2, 11]
    assert encode(_seg([0, 1, 2]), _plan([1, 2], background=False)).ravel().tolist() == [IGNORED, 0, 1]


def test_ignored_voxels_are_255():
    assert encode(_seg([0, 1, 99]), _plan([1], ignore=99)).ravel().tolist() == [0, 1, IGNORED]


def test_values_without_a_class_are_listed_with_their_voxels():
    with pytest.raises(
        UserError, match=r"label values without a class: 3 \(2 voxels\), 8 \(1 voxels\); known are 0, 1"
    ):
        encode(_seg([0, 1, 3, 3, 8]), _plan([1]))


def test_overlapping_classes_become_channels_with_255_where_ignored():
    labels = np.array([0, 1, 2, 9]).reshape(1, 1, 4)
    regions = np.zeros((2, 1, 1, 4), bool)
    regions[0, 0, 0, 1:3] = regions[1, 0, 0, 2] = True
    classes = (ClassInfo("whole", 1, (0, 0, 0)), ClassInfo("core", 2, (0, 0, 0)))
    seg = Segmentation(labels, Geometry.from_spacing((1, 1, 4), (1, 1, 1)), classes, regions)
    target = encode(seg, _plan([1, 2], overlapping=True, ignore=9))
    assert target[:, 0, 0].tolist() == [[0, 1, 1, 255], [0, 0, 1, 255]]


@pytest.mark.parametrize(
    ("left", "lost"), [([0, 1, 2], []), ([0, 2, 255], ["class 7"]), ([0, 0, 0], ["class 7", "class 3"])]
)
def test_classes_of_which_nothing_is_left_are_named(left, lost):
    plan = _plan([7, 3, 9])
    target = np.array(left, np.uint8).reshape(1, 1, -1)
    assert lost_classes(_seg([0, 7, 3]), target, plan) == lost


def test_regions_of_which_nothing_is_left_are_named():
    plan = _plan([1, 2], overlapping=True)
    regions = np.zeros((2, 1, 1, 3), np.bool_)
    regions[:, 0, 0, 0] = True
    grid, classes = Geometry.from_spacing((1, 1, 3), (1, 1, 1)), classes_of(plan)
    seg = Segmentation(np.zeros((1, 1, 3), np.uint8), grid, classes, regions=regions)
    target = np.zeros((2, 1, 1, 3), np.uint8)
    target[0, 0, 0, 1], target[1] = 1, 255
    assert lost_classes(seg, target, plan) == ["class 2"]
