"""Gaussian noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medseg.ingest.augment.frame import Frame


@dataclass(frozen=True)
class Noise:
    """sd: in units of the prepared image. seed: of the values."""

    sd: float
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator, frame: Frame, sd: tuple[float, float] = (0.0, 0.1)) -> Noise:
        """A standard deviation for all channels."""
        return cls(float(rng.uniform(*sd)), int(rng.integers(2**31)))

    def __call__(self, image: Tensor) -> Tensor:
        """(C, *S) -> the same with noise."""
        generator = torch.Generator(device=image.device).manual_seed(self.seed)
        noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
        return image.add(noise, alpha=self.sd)
