"""A smaller field of view: faces of the patch are cut away, as at the end of a scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from medseg.ingest.augment.frame import Frame


@dataclass(frozen=True)
class Truncate:
    """low, high: voxels that are lost at both ends of every axis. outside: what their target becomes.

    padded: what is lost is 0, as windows have it that reach beyond a scan; else the smallest value, as scanners fill
    what they did not reconstruct.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    outside: int = 0
    padded: bool = False

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        frame: Frame,
        share: tuple[float, float] = (0.0, 0.4),
        each: float = 0.34,
    ) -> Truncate:
        """Each face with probability `each` loses a share of its axis; the two of an axis never meet."""
        cut = rng.uniform(*share, (2, frame.ndim)) * (rng.random((2, frame.ndim)) < each)
        cut /= np.maximum(1.0, cut.sum(axis=0) / 0.8)
        low, high = (cut * np.array(frame.shape)).astype(int)
        padded = bool(rng.random() < 0.5)
        outside = frame.outside if padded else frame.air
        return cls(tuple(int(n) for n in low), tuple(int(n) for n in high), outside, padded)

    def __call__(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """image (C, *S) becomes 0 or its smallest value outside, target (..., *S) background or ignored."""
        ndim = image.ndim - 1
        inside = (..., *(slice(a, n - b) for a, b, n in zip(self.low, self.high, image.shape[1:])))
        beyond = image.amin(tuple(range(1, ndim + 1)), keepdim=True) * (not self.padded)
        new_image = beyond.expand_as(image).clone()
        new_target = target.new_full(target.shape, self.outside)
        new_image[inside], new_target[inside] = image[inside], target[inside]
        return new_image, new_target
