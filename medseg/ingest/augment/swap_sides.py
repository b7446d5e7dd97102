"""Mirroring left-right where classes have sides: what was the right one is then the left one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from medseg.ingest.augment.frame import Frame


@dataclass(frozen=True)
class SwapSides:
    """axis: left-right, or None for no change. pairs: target positions that change places.

    A mirrored patient is a believable one (situs inversus apart), so every case is worth two; without the exchange
    of names it would teach that sides do not matter.
    """

    axis: int | None
    pairs: tuple[tuple[int, int], ...]
    regions: bool = False

    @classmethod
    def draw(cls, rng: np.random.Generator, frame: Frame) -> SwapSides:
        """Nothing is changed where a class has a side and no partner on the other."""
        return cls(frame.across if frame.side_pairs else None, frame.side_pairs, frame.regions)

    def __call__(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """image (C, *S), target (*S) of positions or (R, *S) of regions -> both mirrored, the pairs exchanged."""
        if self.axis is None:
            return image, target
        turn = self.axis - (image.ndim - 1)
        image, mirrored = image.flip(turn), target.flip(turn)
        swapped = mirrored.clone()
        for a, b in self.pairs:
            if self.regions:
                swapped[a], swapped[b] = mirrored[b], mirrored[a]
            else:
                swapped[mirrored == a], swapped[mirrored == b] = b, a
        return image, swapped
