"""Gaussian blur: softer kernels, partial volume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medseg.ingest.augment.frame import Frame
from medseg.ingest.augment.matrices import along_axes, gaussian


@dataclass(frozen=True)
class Blur:
    """sigmas: per channel one value an axis in voxels, or nothing for a channel that is left alone."""

    sigmas: tuple[tuple[float, ...], ...]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        frame: Frame,
        sigma: tuple[float, float] = (0.5, 1.0),
        each: float = 0.5,
    ) -> Blur:
        """Every channel with probability `each`, its own sigma for every axis."""
        chosen = [rng.random() < each for _ in range(frame.channels)]
        return cls(
            tuple(tuple(float(s) for s in rng.uniform(*sigma, frame.ndim)) if c else () for c in chosen)
        )

    def __call__(self, image: Tensor) -> Tensor:
        """(C, *S) -> the same, softer."""
        if not any(self.sigmas):
            return image
        return torch.stack(
            [
                along_axes(channel, [gaussian(n, s) for n, s in zip(channel.shape, sigmas)])
                if sigmas
                else channel
                for channel, sigmas in zip(image, self.sigmas)
            ]
        )
