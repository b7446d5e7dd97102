"""Multiplying, and adding a constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from medseg.ingest.augment.frame import Frame
from medseg.ingest.augment.per_channel import around_one, as_column


@dataclass(frozen=True)
class Brightness:
    """factors, shifts: per channel; x * factor + shift."""

    factors: tuple[float, ...]
    shifts: tuple[float, ...]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        frame: Frame,
        factor: tuple[float, float] = (0.75, 1.25),
        shift: tuple[float, float] = (0.0, 0.0),
    ) -> Brightness:
        """Below or above 1 with equal probability, each channel its own."""
        factors = tuple(around_one(rng, factor) for _ in range(frame.channels))
        return cls(factors, tuple(float(s) for s in rng.uniform(*shift, frame.channels)))

    def __call__(self, image: Tensor) -> Tensor:
        """(C, *S) -> brighter or darker."""
        return image * as_column(self.factors, image) + as_column(self.shifts, image)
