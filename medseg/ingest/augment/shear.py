"""Slanting one axis along another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.ingest.augment.frame import Frame


@dataclass(frozen=True)
class Shear:
    """slants: (axis, along axis, mm per mm)."""

    slants: tuple[tuple[int, int, float], ...]

    @classmethod
    def draw(cls, rng: np.random.Generator, frame: Frame, slope: float = 0.1) -> Shear:
        """A slope within +-slope for every plane in which the patch may be turned."""
        return cls(tuple((a, b, float(rng.uniform(-slope, slope))) for a, b in frame.planes))

    def matrix(self, frame: Frame) -> npt.NDArray[np.float64]:
        """(ndim, ndim) in mm: where the value of an output point is taken from."""
        out = np.eye(frame.ndim)
        for a, b, slope in self.slants:
            out[a, b] += slope
        return out
