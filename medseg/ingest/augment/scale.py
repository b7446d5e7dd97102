"""Larger and smaller."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.ingest.augment.frame import Frame


@dataclass(frozen=True)
class Scale:
    """factors: per axis, above 1 makes objects smaller."""

    factors: tuple[float, ...]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        frame: Frame,
        factor: tuple[float, float] = (0.7, 1.4),
        anisotropic: float = 0.0,
    ) -> Scale:
        """One factor for all axes, then each axis by up to +-anisotropic (a share) more."""
        common = float(rng.uniform(*factor))
        each = 1.0 + rng.uniform(-anisotropic, anisotropic, frame.ndim)
        # The coarse axis keeps its few slices.
        return cls(tuple(1.0 if a == frame.coarse else common * float(each[a]) for a in range(frame.ndim)))

    def matrix(self, frame: Frame) -> npt.NDArray[np.float64]:
        """(ndim, ndim) in mm: where the value of an output point is taken from."""
        return np.diag(self.factors)
