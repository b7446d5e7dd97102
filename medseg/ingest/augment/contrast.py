"""Spreading values about their mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from medseg.ingest.augment.frame import Frame
from medseg.ingest.augment.per_channel import around_one, as_column, spatial


@dataclass(frozen=True)
class Contrast:
    """factors: per channel."""

    factors: tuple[float, ...]

    @classmethod
    def draw(
        cls, rng: np.random.Generator, frame: Frame, factor: tuple[float, float] = (0.75, 1.25)
    ) -> Contrast:
        """Below or above 1 with equal probability, each channel its own."""
        return cls(tuple(around_one(rng, factor) for _ in range(frame.channels)))

    def __call__(self, image: Tensor) -> Tensor:
        """(C, *S) -> more or less contrast about the channel's mean, within its old range."""
        axes = spatial(image)
        mean = image.mean(axes, keepdim=True)
        low, high = image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
        return ((image - mean) * as_column(self.factors, image) + mean).clamp(low, high)
