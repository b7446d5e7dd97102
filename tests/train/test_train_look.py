"""Figures of a look at validation cases."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from medseg.core.segmentation import ClassInfo
from medseg.train.look import Counts, Looker, count_overlap, summary, weights_of


def two_classes() -> list[dict]:
    return [ClassInfo(name, i + 1, (1, 2, 3)).as_json() for i, name in enumerate(("liver", "spleen"))]


class Threshold(nn.Module):
    """Answers class 1 where the image is above a half."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x), self.weight * (x - 0.5)], dim=1)


def test_a_right_answer_has_dice_one_on_whole_cases_larger_than_a_patch(
    plan: Callable, ball: Callable
) -> None:
    cases = {f"v{i}": ball(i, n=40) for i in range(3)}
    for case in cases.values():
        case.image = case.target[None].astype(np.float16)
    look = Looker(cases, plan(), None).look(Threshold())
    assert look.dice == look.iou == 1.0
    assert look.n == 3
    assert look.per_class == {"ball": {"dice": 1.0, "iou": 1.0, "n": 3}}


def test_the_network_trains_on_afterwards(plan: Callable, ball: Callable) -> None:
    net = Threshold().train()
    Looker({"v": ball(1)}, plan(), None).look(net)
    assert net.training
    assert net.weight.requires_grad
    (net(torch.ones(1, 1, 4, 4, 4)).sum()).backward()
    assert net.weight.grad is not None


def test_dice_and_iou_are_means_over_cases_then_classes() -> None:
    cases = [
        Counts(np.array([5, 0]), np.array([10, 0]), np.array([10, 0])),
        Counts(np.array([10, 2]), np.array([10, 4]), np.array([10, 2])),
    ]
    look = summary(cases, ("liver", "spleen"), 0.1)
    assert look.per_class["liver"]["dice"] == pytest.approx((0.5 + 1) / 2)
    assert look.per_class["liver"]["iou"] == pytest.approx((5 / 15 + 1) / 2)
    assert look.per_class["spleen"] == {"dice": pytest.approx(4 / 6), "iou": pytest.approx(0.5), "n": 1}
    assert look.dice == pytest.approx((0.75 + 4 / 6) / 2)


def test_classes_that_are_nowhere_give_no_figure() -> None:
    nothing = Counts(np.zeros(1), np.zeros(1), np.zeros(1))
    assert summary([nothing], ("liver",), 0.0).dice is None
    assert summary([], ("liver",), 0.0).n == 0


def test_a_missed_class_counts_as_zero() -> None:
    missed = Counts(np.array([0]), np.array([0]), np.array([7]))
    assert summary([missed], ("liver",), 0.0).dice == 0.0


def test_ignored_voxels_are_not_counted(plan: Callable) -> None:
    target = torch.tensor([[[0, 1, 255, 2, 2]]]).to(torch.uint8)
    logits = torch.nn.functional.one_hot(torch.tensor([[[1, 1, 1, 2, 0]]]), 3).movedim(-1, 0).float()
    three = plan(classes=two_classes(), out_channels=3)
    counts = count_overlap(logits, target, three)
    assert counts.both.tolist() == [1, 1]
    assert counts.predicted.tolist() == [2, 1]
    assert counts.true.tolist() == [1, 2]


def test_overlapping_regions_are_counted_one_by_one(plan: Callable) -> None:
    both = plan(classes=two_classes(), out_channels=2, overlapping=True)
    target = torch.tensor([[[1, 1, 0, 255]], [[1, 0, 0, 255]]]).to(torch.uint8)[:, :, None]
    logits = torch.tensor([[[3.0, -1, 2, 5]], [[1.0, -2, -1, 5]]])[:, :, None]
    counts = count_overlap(logits, target, both)
    assert counts.both.tolist() == [1, 1]
    assert counts.predicted.tolist() == [2, 1]
    assert counts.true.tolist() == [2, 1]


def test_classes_without_background_count_from_the_first(plan: Callable) -> None:
    bare = plan(classes=two_classes(), out_channels=2, background=False)
    target = torch.tensor([[[0, 0, 1]]]).to(torch.uint8)
    logits = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 1]]]), 2).movedim(-1, 0).float()
    assert count_overlap(logits, target, bare).both.tolist() == [1, 1]


def test_classes_nobody_drew_in_a_case_are_left_out() -> None:
    counts = Counts(np.array([1, 1]), np.array([2, 2]), np.array([3, 3])).without([1])
    assert counts.predicted.tolist() == [2, 0]


def test_at_most_eight_cases_spread_over_all_and_always_the_same(plan: Callable, ball: Callable) -> None:
    cases = {f"v{i:02}": ball(1) for i in range(30)}
    names = list(Looker(cases, plan(), None).cases)
    assert len(names) == 8
    assert names[0] == "v00"
    assert names[-1] == "v29"
    assert names == list(Looker(dict(reversed(cases.items())), plan(), None).cases)


def test_the_first_look_drops_cases_that_would_take_too_long(plan: Callable, ball: Callable) -> None:
    cases = {f"v{i}": ball(i) for i in range(5)}
    looker = Looker(cases, plan(), None)
    assert looker.look(Threshold(), seconds=1e-9).n == 1
    assert list(looker.cases) == ["v0"]
    roomy = Looker(cases, plan(), None)
    assert roomy.look(Threshold(), seconds=1e9).n == 5


def test_other_weights_are_lent_and_given_back() -> None:
    net = Threshold()
    with weights_of(net, {"weight": torch.tensor(-3.0)}):
        assert net.weight == -3.0
    assert net.weight == 10.0
    with weights_of(net, None):
        assert net.weight == 10.0


def test_a_look_ends_between_two_cases_when_somebody_waits(plan: Callable, ball: Callable) -> None:
    asked = iter([False, True, True])
    cases = {f"v{i}": ball(i) for i in range(4)}
    assert Looker(cases, plan(), None).look(Threshold(), stop=lambda: next(asked)) is None
    assert [bool(case.reads) for case in cases.values()] == [True, False, False, False]
