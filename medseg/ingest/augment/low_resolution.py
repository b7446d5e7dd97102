"""As if scanned with larger voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medseg.ingest.augment.frame import Frame
from medseg.ingest.augment.matrices import along_axes, coarser


@dataclass(frozen=True)
class LowResolution:
    """factors: per channel, 1 leaves it alone. coarse: axis that keeps its resolution, or None."""

    factors: tuple[float, ...]
    coarse: int | None

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        frame: Frame,
        factor: tuple[float, float] = (0.5, 1.0),
        each: float = 0.5,
    ) -> LowResolution:
        """Every channel with probability `each`; one factor for all its axes but the coarse one."""
        chosen = [rng.random() < each for _ in range(frame.channels)]
        return cls(tuple(float(rng.uniform(*factor)) if c else 1.0 for c in chosen), frame.coarse)

    def __call__(self, image: Tensor) -> Tensor:
        """(C, *S) -> the same with less detail."""
        if all(f == 1.0 for f in self.factors):
            return image
        out = []
        for channel, factor in zip(image, self.factors):
            sizes = [None if a == self.coarse else n for a, n in enumerate(channel.shape)]
            matrices = [None if n is None else coarser(n, factor) for n in sizes]
            out.append(channel if factor == 1.0 else along_axes(channel, matrices))
        return torch.stack(out)
