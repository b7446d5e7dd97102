"""Turning about the centre of the patch."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np
import numpy.typing as npt

from medseg.ingest.augment.frame import Frame


@dataclass(frozen=True)
class Rotate:
    """turns: (axis, axis, degrees) one after the other, in mm space."""

    turns: tuple[tuple[int, int, float], ...]

    @classmethod
    def draw(
        cls, rng: np.random.Generator, frame: Frame, degrees: float = 30.0, free_degrees: float = 180.0
    ) -> Rotate:
        """An angle within +-degrees for every plane; +-free_degrees where no direction is special."""
        turns = []
        for plane in frame.planes:
            limit = free_degrees if frame.turns_freely(plane) else degrees
            turns.append((*plane, float(rng.uniform(-limit, limit))))
        return cls(tuple(turns))

    def matrix(self, frame: Frame) -> npt.NDArray[np.float64]:
        """(ndim, ndim) in mm: where the value of an output point is taken from."""
        out = np.eye(frame.ndim)
        for a, b, degrees in self.turns:
            turn = np.eye(frame.ndim)
            turn[a, a] = turn[b, b] = cos(radians(degrees))
            turn[a, b], turn[b, a] = -sin(radians(degrees)), sin(radians(degrees))
            out = out @ turn
        return out
