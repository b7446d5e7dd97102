"""The learning rate and the clock."""

from __future__ import annotations

import time

import pytest

from medseg.config import Train
from medseg.train.schedule import Clock, LookTimes, rate_factor


@pytest.mark.parametrize("schedule", ["poly", "cosine", "constant"])
def test_the_rate_rises_over_the_warm_up_and_never_starts_at_zero(schedule: str) -> None:
    rises = [rate_factor(t, schedule, 0.1) for t in (0.0, 0.02, 0.05, 0.099)]
    assert rises == sorted(rises)
    assert 0 < rises[0] < 0.05
    assert rate_factor(0.1, schedule, 0.1) > 0.9


def test_poly_is_that_of_nnunet_and_cosine_ends_at_zero() -> None:
    assert rate_factor(0.5, "poly", 0.02) == pytest.approx(0.5**0.9)
    assert rate_factor(0.5, "cosine", 0.02) == pytest.approx(0.5)
    assert rate_factor(1.0, "poly", 0.02) == rate_factor(1.0, "cosine", 0.0) == 0.0
    assert rate_factor(0.7, "constant", 0.0) == 1.0
    assert rate_factor(7.0, "poly", 0.0) == 0.0


def test_a_training_by_steps_looks_at_no_clock() -> None:
    clock = Clock(None, 10, step=4)
    clock.run()
    assert clock.t == 0.4
    clock.step = 10
    assert clock.is_over


def test_the_earlier_of_minutes_and_steps_ends_a_training() -> None:
    clock = Clock(minutes=1.0, steps=1000, step=100)
    clock.restore(100, 30.0)
    assert clock.t == pytest.approx(0.5)
    clock.step = 900
    assert clock.t == pytest.approx(0.9)


def test_time_is_counted_across_interruptions_and_not_between_them() -> None:
    clock = Clock(1.0, None)
    clock.run()
    time.sleep(0.05)
    clock.pause()
    first = clock.seconds
    time.sleep(0.05)
    assert clock.seconds == first >= 0.05
    later = Clock(1.0, None)
    later.restore(7, first)
    later.run()
    assert later.seconds >= first


def test_looks_come_ten_times_and_later_when_they_are_dear() -> None:
    settings = Train(minutes=10)
    times, clock = LookTimes.of(settings), Clock.of(settings)
    assert times.next_t == 0.1
    clock.restore(5, 61.0)
    assert times.is_due(clock)
    times.after(clock, 1.0)
    assert times.next_t == pytest.approx(0.2)
    times.after(clock, 30.0)
    assert times.next_t == pytest.approx(61 / 600 + 0.5, abs=0.01)
    assert times.seconds_for_first == pytest.approx(6.0)


def test_time_for_the_last_look_is_kept_but_never_more_than_a_twentieth() -> None:
    clock, times = Clock(10.0, None), LookTimes(10.0, None)
    clock.restore(1, 594.0)
    times.reserve(clock, 6.0)
    assert clock.is_over
    times.reserve(clock, 300.0)
    assert clock.reserved_seconds == 30.0


def test_a_number_of_steps_between_looks_is_kept_to() -> None:
    times, clock = LookTimes.of(Train(steps=100, validate_every=7)), Clock(None, 100)
    due = []
    for clock.step in range(1, 30):
        if times.is_due(clock):
            due.append(clock.step)
            times.after(clock, 0.1)
    assert due == [7, 14, 21, 28]
    assert LookTimes.of(Train(steps=100)).steps_between == 10
    assert LookTimes.of(Train(minutes=3, steps=100)).steps_between is None
