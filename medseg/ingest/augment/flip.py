"""Mirroring along axes that keep the meaning."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from medseg.ingest.augment.frame import Frame


@dataclass(frozen=True)
class Flip:
    """axes: spatial axes that are turned round."""

    axes: tuple[int, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator, frame: Frame, each: float = 0.5) -> Flip:
        """Every axis the plan allows, with probability `each`; never left-right where classes have sides."""
        return cls(tuple(axis for axis in frame.mirror_axes if rng.random() < each))

    def __call__(self, array: Tensor, ndim: int) -> Tensor:
        """(..., *S) image or target -> the same, mirrored."""
        return array.flip([axis - ndim for axis in self.axes]) if self.axes else array
