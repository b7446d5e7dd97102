"""How far a training is, and how high the learning rate is there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from medseg.config import Train

FIRST_SHARE = 0.01
"""The rate of the very first step, as a share of the highest: a step at rate 0 would teach nothing."""


def rate_factor(t: float, schedule: str, warmup: float, held_t: float | None = None) -> float:
    """Learning rate at position t in [0, 1] of the training, as a share of the highest.

    poly: (1 - t)^0.9 (nnU-Net's; Chen et al. 2018, arXiv:1606.00915, section 4). cosine: (1 + cos(pi t)) / 2
    (Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5 without restarts). constant: 1. All times a linear rise over
    the first `warmup` share. held_t: the position at which the schedule was last looked at (`train.rate_every`); the
    rise goes on between, or a training with few changes would spend its first stretch at the rate of its first step.
    """
    t = min(1.0, max(0.0, t))
    rise = 1.0 if t >= warmup else max(FIRST_SHARE, t / warmup)
    t = t if held_t is None else min(1.0, max(0.0, held_t))
    if schedule == "poly":
        return rise * (1 - t) ** 0.9
    if schedule == "cosine":
        return rise * 0.5 * (1 + math.cos(math.pi * t))
    return rise


LOOKS = 10
"""Looks at the validation cases in one training."""


@dataclass
class Clock:
    """Where the training stands: steps done, seconds used over all its parts, and the share t of the whole.

    `reserved_seconds` of the minutes are kept for the last look at the validation cases. `minutes` and `steps` are the two ends of which the earlier counts. Time runs while `run()` was called and
    `pause()` was not, so an interrupted and resumed training has as much time as an uncut one. `timer` gives seconds:
    of the wall, or of the processor where a training shares it with others.
    """

    minutes: float | None
    steps: int | None
    step: int = 0
    reserved_seconds: float = 0.0
    timer: Callable[[], float] = time.monotonic
    _before: float = 0.0
    _since: float | None = field(default=None, repr=False)

    @classmethod
    def of(cls, settings: Train, timer: Callable[[], float] = time.monotonic) -> Clock:
        return cls(settings.minutes, settings.steps, timer=timer)

    def run(self) -> None:
        self._since = self.timer()

    def pause(self) -> None:
        self._before = self.seconds
        self._since = None

    @property
    def seconds(self) -> float:
        """Training time so far, earlier parts included."""
        return self._before + (0.0 if self._since is None else self.timer() - self._since)

    @property
    def t(self) -> float:
        """Share of the training that is over, in [0, 1]; with steps alone it does not look at any clock."""
        by_time = 0.0 if self.minutes is None else self.seconds / (60 * self.minutes - self.reserved_seconds)
        by_steps = 0.0 if self.steps is None else self.step / self.steps
        return min(1.0, max(by_time, by_steps))

    @property
    def is_over(self) -> bool:
        return self.t >= 1.0

    def t_at_multiple_of(self, every: int) -> float:
        """Where the training stood at the last step whose number was a multiple of `every`; with minutes, about."""
        return self.t * (self.step - self.step % every) / max(self.step, 1)

    def restore(self, step: int, seconds: float) -> None:
        """Goes on where a checkpoint was written."""
        self.step, self._before = step, seconds
        if self._since is not None:
            self._since = self.timer()


@dataclass
class LookTimes:
    """When the validation cases are looked at: ten times a training, or every `every` steps.

    next_t, next_step: position or step of the next look. The looks of a training that is bound by time take at most a tenth of it.
    """

    minutes: float | None
    steps: int | None
    every: int | None = None
    next_t: float = 1 / LOOKS
    next_step: int = 0

    @classmethod
    def of(cls, settings: Train) -> LookTimes:
        every = None if settings.validate_every == "auto" else settings.validate_every
        return cls(settings.minutes, settings.steps, every, next_step=every or 0)

    @property
    def steps_between(self) -> int | None:
        """Steps from look to look where that is known beforehand, without a clock."""
        if self.every is not None:
            return self.every
        return None if self.minutes is not None or self.steps is None else max(1, self.steps // LOOKS)

    @property
    def seconds_for_first(self) -> float | None:
        """What the first look may take; None when the number of its cases is settled already."""
        return (
            None
            if self.steps_between is not None or self.minutes is None
            else 0.1 / LOOKS * 60 * self.minutes
        )

    def is_due(self, clock: Clock) -> bool:
        """Whether it is time for a look."""
        if self.every is not None:
            return clock.step >= self.next_step
        return clock.t >= self.next_t

    def after(self, clock: Clock, seconds: float) -> None:
        """Sets the next look after one that took `seconds`, later when looks are dear."""
        self.reserve(clock, seconds)
        if self.every is not None:
            self.next_step = (clock.step // self.every + 1) * self.every
        earliest = 0.0 if self.minutes is None else clock.t + 10 * seconds / (60 * self.minutes)
        self.next_t = max((math.floor(clock.t * LOOKS + 1e-9) + 1) / LOOKS, earliest)

    def pass_by(self, clock: Clock) -> None:
        """The next look of a training whose length was changed: the first that lies ahead."""
        if self.every is not None:
            self.next_step = (clock.step // self.every + 1) * self.every
        self.next_t = (math.floor(clock.t * LOOKS + 1e-9) + 1) / LOOKS

    def reserve(self, clock: Clock, seconds: float) -> None:
        """Keeps time for the last look, at most a twentieth of the training."""
        if self.minutes is not None:
            clock.reserved_seconds = min(seconds, 3 * self.minutes)
