"""How a training ends early, is prolonged, or says that it gets nowhere."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
import torch
from torch import nn

from medseg.core.errors import Interrupted, UserError
from medseg.train import loop, progressing
from medseg.train.checkpoints import is_finished, mark_finished, read_facts
from medseg.train.loop import train
from medseg.train.progressing import Progressing


class Blind(nn.Module):
    """Can say nothing but background, whatever it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros_like(x) + 0 * self.weight
        return torch.cat([zero + 3, zero], dim=1)


def test_a_network_that_finds_nothing_is_stopped_with_remedies(
    job: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progressing, "STEPS", 4)
    with pytest.raises(
        UserError, match=r"finds nothing: Dice 0 in the last \d validations.*after step"
    ) as caught:
        train(Blind(), job(steps=20))
    assert "train.optimizer.rate (now 0.02)" in caught.value.hint
    assert "train.foreground (now 0.33)" in caught.value.hint
    assert "train.collapse: warn" in caught.value.hint


def test_who_wants_to_go_on_is_told_at_the_end(job: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progressing, "STEPS", 4)
    result = train(Blind(), job(steps=20, collapse="warn"))
    assert result.steps == 20
    assert any("finds nothing in the validation cases" in note for note in result.notes)


def test_a_short_training_and_a_falling_loss_are_no_collapse() -> None:
    watched = Progressing()
    for number, loss in enumerate((1.0, 0.9, 0.8, 0.7)):
        watched.after_look(0.0, number / 4, 100 * number, loss)
        assert not watched.collapsed
    watched.after_look(0.0, 0.9, 500, 0.69)
    watched.after_look(0.0, 1.0, 600, 0.69)
    assert watched.collapsed
    watched.after_look(0.2, 1.0, 700, 0.69)
    assert not watched.collapsed
    quick = Progressing()
    for step in range(0, 90, 10):
        quick.after_look(0.0, step / 100, step, 1.0)
    assert not quick.collapsed, "fewer than 100 steps say nothing"


def test_looks_without_any_class_say_nothing_and_the_state_survives() -> None:
    watched = Progressing(patience=2)
    for dice in (0.5, None, 0.4):
        watched.after_look(dice, 0.1, 10, 1.0)
    assert not watched.settled
    again = Progressing(patience=2)
    again.restore(watched.state())
    again.after_look(0.5, 0.2, 20, 1.0)
    assert again.settled


def test_a_plateau_ends_the_training_where_that_was_asked_for(job: Callable) -> None:
    given = job(steps=40, patience=2, optimizer={"rate": 1e-12})
    result = train(Blind(), given)
    assert result.steps < 40
    assert any("no better Dice than" in note for note in result.notes)


def test_more_steps_may_be_asked_of_a_training_that_is_over(
    job: Callable, small: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(loop, "say", said.append)
    net = small()
    train(net, job(steps=4))
    mark_finished(job(steps=4).folder.checkpoints)
    longer = job(steps=9)
    again = small()
    assert train(again, longer).steps == 9
    assert "goes on after step 4 (44% done); its length was changed" in said[0]
    assert not is_finished(longer.folder.checkpoints)


def test_a_training_that_is_over_is_done_anew_when_asked_for(job: Callable, small: Callable) -> None:
    first = job(steps=4)
    train(small(), first)
    mark_finished(first.folder.checkpoints)
    seen = []
    train(small(), first, lambda images, targets, rng: (seen.append(1), (images, targets))[1])
    assert len(seen) == 4


def test_a_training_that_is_made_shorter_than_it_was_starts_anew(job: Callable, small: Callable) -> None:
    calls = []

    def stop_at_six(images, targets, rng):
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return images, targets

    with pytest.raises(Interrupted):
        train(small(), job(steps=20), stop_at_six)
    assert read_facts(job(steps=20).folder.checkpoints)["step"] == 6
    calls.clear()
    assert train(small(), job(steps=3), stop_at_six).steps == 3
    assert len(calls) == 3


def test_sigterm_is_answered_within_a_minute_by_a_checkpoint_and_the_code_for_a_requeue(
    job: Callable, small: Callable
) -> None:
    import time

    from medseg.cli_door import REQUEUE, run_safely

    asked: list[float] = []

    def stop_at_two(images, targets, rng):
        asked.append(time.monotonic())
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return images, targets

    class Verb:
        def main(self, **_) -> None:
            train(small(), job(steps=20), stop_at_two)

    assert run_safely(Verb(), ["run"]) == REQUEUE == 75
    assert time.monotonic() - asked[-1] < 60
    assert read_facts(job(steps=20).folder.checkpoints)["step"] == 2
