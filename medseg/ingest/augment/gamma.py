"""Gamma correction that keeps mean and standard deviation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from medseg.ingest.augment.frame import Frame
from medseg.ingest.augment.per_channel import around_one, as_column, spatial

SMALL = 1e-7


@dataclass(frozen=True)
class Gamma:
    """exponents: per channel. inverted: whether the negative image is changed."""

    exponents: tuple[float, ...]
    inverted: bool

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        frame: Frame,
        exponent: tuple[float, float] = (0.7, 1.5),
        inverted: bool = False,
    ) -> Gamma:
        """Below or above 1 with equal probability, each channel its own."""
        return cls(tuple(around_one(rng, exponent) for _ in range(frame.channels)), inverted)

    def __call__(self, image: Tensor) -> Tensor:
        """(C, *S) -> ((x - min) / range)^exponent, brought back to the old mean and standard deviation."""
        axes = spatial(image)
        x = -image if self.inverted else image
        mean, sd = x.mean(axes, keepdim=True), x.std(axes, keepdim=True)
        low = x.amin(axes, keepdim=True)
        width = (x.amax(axes, keepdim=True) - low).clamp_min(SMALL)
        x = ((x - low) / width).pow(as_column(self.exponents, image))
        x = (x - x.mean(axes, keepdim=True)) * (sd / x.std(axes, keepdim=True).clamp_min(SMALL)) + mean
        return -x if self.inverted else x
