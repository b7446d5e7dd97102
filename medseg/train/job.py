"""What one training is given and what it gives back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medseg.config import Plan, System, Train
from medseg.core.run import RunFolder
from medseg.train.devices import Precision
from medseg.train.sampler import Prepared, Sampling


@dataclass(frozen=True)
class Job:
    """One training.

    train, val: case -> prepared case. folder: where history and checkpoints go. device: cpu, cuda, cuda:N or mps.
    cores: threads that compute. data_key: changes with the prepared cases.
    """

    system: System
    settings: Train
    plan: Plan
    train: Mapping[str, Prepared]
    val: Mapping[str, Prepared]
    folder: RunFolder
    seed: int = 17
    device: str = "cpu"
    cores: int = 1
    data_key: str = ""

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            tuple(self.plan.patch_size), self.plan.batch_size, self.settings.foreground, self.seed
        )

    @property
    def stamp(self) -> str:
        """Equal stamp, same training: a checkpoint is continued only by the training that wrote it."""
        facts = {
            "system": self.system.model_dump(mode="json"),
            "settings": self.settings.model_dump(mode="json", exclude={"checkpoint_minutes", "minutes"}),
            "plan": self.plan.model_dump(mode="json", exclude={"reasons", "estimate"}),
            "cases": [sorted(self.train), sorted(self.val)],
            "seed": self.seed,
            "data": self.data_key,
        }
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
