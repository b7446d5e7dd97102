"""What one training is given and what it gives back."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from medseg.config import Plan, System, Train
from medseg.core.progress import say
from medseg.core.run import RunFolder
from medseg.train.checkpoints import FILE, is_finished
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
        return _digest(self._identity())

    @property
    def marks(self) -> dict[str, Any]:
        """What a checkpoint keeps of the training that wrote it: the stamp, and a digest of each part of it by name."""
        facts = self._identity()
        parts = {name: facts[name] for name in ("system", "cases", "data", "unlabelled") if name in facts}
        parts |= {"compute.seed": facts["seed"]}
        parts |= {f"train.{key}": value for key, value in facts["settings"].items()}
        parts |= {f"{key} of the plan": value for key, value in facts["plan"].items()}
        return {"stamp": self.stamp, "parts": {name: _digest(value) for name, value in parts.items()}}

    def _identity(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "system": self.system.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json", exclude=set(MAY_CHANGE)),
            "plan": self.plan.model_dump(mode="json", exclude=_SAYS_NOTHING[self.plan.previous is None]),
            "cases": [sorted(self.train), sorted(self.val)],
            "seed": self.seed,
            "data": self.data_key,
        }
        if self.unlabelled:
            facts["unlabelled"] = sorted(self.unlabelled)
        return facts


def _digest(facts: Any) -> str:
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
    goes on, unless it is made so short that it would be over. Steps of an unfinished training that are given up are
    said, with the reason.
    """
    found = _continued(job, facts)
    place = job.folder.checkpoints
    if found is None and (place / FILE).is_file() and not is_finished(place):
        say(f"train    starts from the beginning: {_why_anew(job, facts)}")
    return found


def _why_anew(job: Job, facts: dict[str, Any] | None) -> str:
    if facts is None:
        return "its checkpoint cannot be read"
    where = f"the checkpoint after step {facts['step']}"
    if facts["stamp"] == job.stamp:
        return f"{where} lies beyond the end that is asked for now"
    now, before = job.marks["parts"], facts.get("parts", {})
    other = [name for name in sorted({*now, *before}) if now.get(name) != before.get(name)] if before else []
    names = ", ".join(other[:6]) + (" ..." if len(other) > 6 else "") or "settings or data"
    return f"{where} was made with other {names}"


def _continued(job: Job, facts: dict[str, Any] | None) -> dict[str, Any] | None:
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
