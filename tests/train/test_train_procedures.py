"""Cases without a label: what they change, and that plain supervision does not look at them."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medseg.core.errors import Interrupted, UserError
from medseg.train.loop import train
from medseg.train.procedures.mean_teacher import MeanTeacher
from medseg.train.procedures.pseudo_labels import PseudoLabels
from medseg.train.procedures.table import PROCEDURES, build_procedure, find_procedure
from medseg.train.sampler import Sampling

BOTH = ("mean_teacher", "pseudo_labels")


def same(one, other) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.fixture
def others(ball: Callable) -> dict:
    """Two cases without a label."""
    cases = {f"u{i}": ball(70 + i) for i in range(2)}
    for case in cases.values():
        case.target = np.full_like(case.target, 255)
        case.known = ()
    return cases


def with_unlabelled(given, cases):
    from dataclasses import replace

    return replace(given, unlabelled=cases)


@pytest.mark.parametrize("procedure", BOTH)
def test_a_case_without_a_label_changes_the_weights(
    job: Callable, small: Callable, ball: Callable, others: dict, procedure: str
) -> None:
    settings = {"procedure": procedure, "ema": 0.9, "steps": 8, "val": {}}
    nets = [small(), small(), small()]
    changed = {**others, "u0": ball(99)}
    changed["u0"].target = np.full_like(changed["u0"].target, 255)
    for net, name, cases in zip(nets, "abc", (others, others, changed)):
        result = train(net, with_unlabelled(job(name, **settings), cases))
        assert "2 cases without labels" in result.notes[0]
    assert same(nets[0], nets[1])
    assert not same(nets[0], nets[2])


def test_supervision_does_not_look_at_them(job: Callable, small: Callable, others: dict) -> None:
    nets = [small(), small()]
    train(nets[0], job("a", val={}))
    train(nets[1], with_unlabelled(job("b", val={}), others))
    assert same(*nets)
    assert all(not case.reads for case in others.values())


@pytest.mark.parametrize("procedure", BOTH)
def test_a_cut_training_ends_like_an_uncut_one(
    job: Callable, small: Callable, others: dict, procedure: str
) -> None:
    settings = {"procedure": procedure, "val": {}, "steps": 8}
    uncut, first, resumed = small(), small(), small()
    train(uncut, with_unlabelled(job("uncut", **settings), others))
    given = with_unlabelled(job("cut", **settings), others)
    calls = []

    def stop(images, targets, rng):
        calls.append(1)
        return images, targets

    def stop_late(images, targets, rng):
        calls.append(1)
        if len(calls) == 8:  # labelled and unlabelled batches are changed in turn, so this is past the half
            os.kill(os.getpid(), signal.SIGTERM)
        return images, targets

    with pytest.raises(Interrupted):
        train(first, given, stop_late)
    train(resumed, given, stop)
    assert same(uncut, resumed)


def test_the_teacher_is_the_average_of_the_weights(job: Callable, small: Callable, others: dict) -> None:
    from medseg.train.loop import Training
    from medseg.train.stopping import StopRequest

    given = with_unlabelled(job(procedure={"name": "mean_teacher", "decay": 0.9}, val={}, steps=3), others)
    net = small()
    training = Training(net, given, None)
    training.go(StopRequest())
    teacher = training.procedure.teacher
    for name, value in training.average.weights.items():
        assert torch.equal(teacher.state_dict()[name], value), name
    assert not same(teacher, net)
    assert training.average.decay == 0.9
    training.finish()
    assert same(teacher, net), "the teacher is what is kept"


def test_the_weight_of_the_consistency_rises_as_published() -> None:
    procedure = MeanTeacher({}, Sampling((4, 4, 4), 1, 0.0, 1), weight=2.0, ramp=0.5)
    assert procedure.weight_at(0.0) == pytest.approx(2 * math.exp(-5))
    assert procedure.weight_at(0.25) == pytest.approx(2 * math.exp(-5 / 4))
    assert procedure.weight_at(0.5) == procedure.weight_at(0.9) == 2.0
    assert MeanTeacher({}, Sampling((4, 4, 4), 1, 0.0, 1), ramp=0.0).weight_at(0.0) == 1.0


def test_pseudo_labels_come_in_rounds_and_their_weight_rises_in_a_line() -> None:
    procedure = PseudoLabels({}, Sampling((4, 4, 4), 1, 0.0, 1), rounds=3)
    assert [procedure.weight_at(t) for t in (0.0, 0.25, 0.375, 0.5, 0.9)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert procedure.extra(torch.zeros(1), 0.2, np.random.default_rng(0)) is None


def test_only_confident_answers_become_labels() -> None:
    procedure = PseudoLabels({}, Sampling((4, 4, 4), 1, 0.0, 1), confidence=0.8)
    procedure.learning = SimpleNamespace(overlapping=False)
    probabilities = torch.tensor([[[0.9, 0.6, 0.1]], [[0.1, 0.4, 0.9]]]).movedim(0, 0)[None]
    assert procedure.labels_of(probabilities).tolist() == [[[0, 255, 1]]]
    procedure.learning = SimpleNamespace(overlapping=True)
    assert procedure.labels_of(probabilities).tolist() == [[[[1, 255, 0]], [[0, 255, 1]]]]


@pytest.mark.parametrize("name", [name for name in PROCEDURES if name != "supervised"])
def test_a_procedure_without_unlabelled_cases_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} learns from cases without a label, and there is none"):
        build_procedure(name, {}, Sampling((4, 4, 4), 1, 0.0, 1))


def test_unknown_procedures_and_arguments_are_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no procedure named 'mean_teachr', did you mean mean_teacher"):
        find_procedure("mean_teachr")
    with pytest.raises(UserError, match="mean_teacher takes no 'wieght', did you mean weight"):
        find_procedure({"name": "mean_teacher", "wieght": 2})
    with pytest.raises(UserError, match="weight is 'much'"):
        find_procedure({"name": "mean_teacher", "weight": "much"})
    with pytest.raises(UserError, match="supervised takes no 'weight'"):
        find_procedure({"name": "supervised", "weight": 1})


def test_the_last_answers_are_better_with_unlabelled_cases_than_random(
    job: Callable, small: Callable, others: dict
) -> None:
    result = train(small(), with_unlabelled(job(procedure="mean_teacher", steps=60), others))
    assert result.scores["dice"] > 0.6
    assert result.averaged
