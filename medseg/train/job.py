"""What one training is given and what it gives back."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from medseg.config import Plan, System, Train
from medseg.core.run import RunFolder
from medseg.train.checkpoints import is_finished
from medseg.train.devices import Precision
from medseg.train.sampler import Prepared, Sampling

MAY_CHANGE = (
    "checkpoint_minutes",
    "minutes",
    "steps",
    "patience",
    "collapse",
    "folds",
    "seeds",
)
"""Settings of `train` that a training may be continued with other values of."""


_SAYS_NOTHING = {False: {"reasons", "estimate"}, True: {"reasons", "estimate", "previous"}}
"""Entries of a plan that change no training, without an earlier stage and with one."""


@dataclass(frozen=True)
class Job:
    """One training.

    train, val, unlabelled: case -> prepared case; the last for procedures. folder: where history and checkpoints go. device: cpu, cuda, cuda:N or mps.
    cores: threads that compute. data_key: changes with the prepared cases. timer: by which `train.minutes` are counted.
    """

    system: System
    settings: Train
    plan: Plan
    train: Mapping[str, Prepared]
    val: Mapping[str, Prepared]
    folder: RunFolder
    unlabelled: Mapping[str, Prepared] = field(default_factory=dict)
    seed: int = 17
    device: str = "cpu"
    cores: int = 1
    data_key: str = ""
    timer: Callable[[], float] = time.monotonic

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            tuple(self.plan.patch_size),
            self.plan.batch_size,
            self.settings.foreground,
            self.seed,
            beyond_image=self.settings.beyond_image,
            margin=self.plan.margin,
        )

    @property
    def stamp(self) -> str:
        """Equal stamp, same training: a checkpoint is continued only by the training that wrote it.

        Its length may change meanwhile.
        """
        facts = {
            "system": self.system.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json", exclude=set(MAY_CHANGE)),
            "plan": self.plan.model_dump(mode="json", exclude=_SAYS_NOTHING[self.plan.previous is None]),
            "cases": [sorted(self.train), sorted(self.val)],
            "seed": self.seed,
            "data": self.data_key,
        }
        if self.unlabelled:
            facts["unlabelled"] = sorted(self.unlabelled)
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Trained:
    """What a training came to. scores: of the last look at the validation cases, {} without any."""

    steps: int
    seconds: float
    epochs: float
    precision: Precision
    data_wait_percent: float
    scores: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    averaged: bool = False
    augment_percent: float = 0.0


def continued(job: Job, facts: dict[str, Any] | None) -> dict[str, Any] | None:
    """The facts of a checkpoint that this training goes on from; None when it starts anew.

    A training that is over is done again from the start when asked for, unless it is made longer; one that was cut
    goes on, unless it is made so short that it would be over.
    """
    if facts is None or facts["stamp"] != job.stamp:
        return None
    now = [job.settings.minutes, job.settings.steps]
    before = facts["length"]
    if is_finished(job.folder.checkpoints) and not any(
        new is not None and old is not None and new > old for new, old in zip(now, before, strict=True)
    ):
        return None
    over = job.settings.steps is not None and facts["step"] >= job.settings.steps
    return None if over and now != before else facts
