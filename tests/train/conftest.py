"""Small training jobs: noisy balls in boxes of 24 voxels, and a network of a few hundred weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medseg.config import IntensityPlan, Plan, System, Train
from medseg.core.run import RunFolder
from medseg.core.segmentation import ClassInfo
from medseg.train.job import Job


@dataclass
class Ball:
    """A prepared case in memory, as `medseg.ingest.cache.PreparedCase` would hand it out."""

    image: np.ndarray
    target: np.ndarray
    known: tuple[str, ...] | None = None
    reads: list[tuple] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.image.shape[1:]

    @property
    def foreground(self) -> dict[int, np.ndarray]:
        return {0: np.argwhere(self.target == 1)} if (self.target == 1).any() else {}

    def read_image(self, low: Sequence[int], high: Sequence[int]) -> np.ndarray:
        self.reads.append((tuple(low), tuple(high)))
        return self._box(self.image, 1, low, high)

    def read_target(self, low: Sequence[int], high: Sequence[int]) -> np.ndarray:
        return self._box(self.target, self.target.ndim - len(self.shape), low, high)

    def _box(self, array: np.ndarray, lead: int, low: Sequence[int], high: Sequence[int]) -> np.ndarray:
        inside = [slice(max(0, lo), min(n, hi)) for lo, hi, n in zip(low, high, self.shape)]
        margins = [(s.start - lo, hi - s.stop) for s, lo, hi in zip(inside, low, high)]
        return np.pad(array[(*(slice(None),) * lead, *inside)], [(0, 0)] * lead + margins)


def make_ball(seed: int, n: int = 24, dims: int = 3) -> Ball:
    rng = np.random.default_rng(seed)
    centre = rng.uniform(8, n - 8, dims).reshape(dims, *[1] * dims)
    inside = ((np.indices((n,) * dims) - centre) ** 2).sum(0) < 6**2
    image = (inside + rng.normal(0, 0.3, inside.shape)).astype(np.float16)
    return Ball(image[None], inside.astype(np.uint8))


@pytest.fixture
def ball() -> Callable[..., Ball]:
    return make_ball


class Small(nn.Module):
    """Two convolutions, a norm with running statistics, dropout: everything that a checkpoint has to keep."""

    divisor = (1, 1, 1)

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.Dropout(0.1), nn.Conv3d(8, classes, 3, padding=1)
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


@pytest.fixture
def small() -> Callable[..., nn.Module]:
    """Makes the same small network each time."""

    def make(classes: int = 2) -> nn.Module:
        torch.manual_seed(5)
        return Small(classes)

    return make


@pytest.fixture
def plan() -> Callable[..., Plan]:
    def make(**changes: Any) -> Plan:
        values: dict[str, Any] = {
            "dims": 3,
            "in_channels": 1,
            "classes": [ClassInfo("ball", 1, (200, 30, 30)).as_json()],
            "out_channels": 2,
            "intensity": [IntensityPlan(scheme="none")],
            "patch_size": [16, 16, 16],
            "batch_size": 2,
            "foreground_fraction": {"ball": 0.04},
        }
        return Plan(**{**values, **changes})

    return make


@pytest.fixture
def job(tmp_path: Path, plan: Callable[..., Plan]) -> Callable[..., Job]:
    """A training of five balls, validated on two more; keywords are settings of `train`, or of the job."""

    def make(name: str = "run", **changes: Any) -> Job:
        own = {k: changes.pop(k) for k in ("plan", "train", "val", "seed", "data_key") if k in changes}
        settings = {"steps": 8, "precision": "fp32", "optimizer": {"rate": 0.02}, **changes}
        values = {
            "system": System(name="u-net", size="tiny"),
            "settings": Train(**settings),
            "plan": plan(),
            "train": {f"t{i}": make_ball(i) for i in range(5)},
            "val": {f"v{i}": make_ball(50 + i) for i in range(2)},
            "folder": RunFolder(tmp_path / name),
        }
        return Job(**{**values, **own})

    return make
