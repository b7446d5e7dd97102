"""Smooth random displacement from a coarse lattice of control points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medseg.ingest.augment.frame import Frame


@dataclass(frozen=True)
class Elastic:
    """displacement: largest shift as a share of the patch edge. points: control points an axis. seed: of the shifts."""

    displacement: float
    points: int
    seed: int

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        frame: Frame,
        displacement: tuple[float, float] = (0.0, 0.06),
        points: tuple[int, int] = (4, 7),
    ) -> Elastic:
        """Strength and fineness of the lattice; its border stays in place."""
        return cls(
            float(rng.uniform(*displacement)),
            int(rng.integers(points[0], points[1] + 1)),
            int(rng.integers(2**31)),
        )

    def field(self, frame: Frame, like: Tensor) -> Tensor:
        """Displacement (*S, ndim) in units of half a patch edge, last axis first, as grid_sample counts."""
        # Drawn by numpy: the same lattice on every device.
        lattice = np.random.default_rng(self.seed).uniform(-1, 1, (frame.ndim, *(self.points,) * frame.ndim))
        inner = (slice(1, -1),) * frame.ndim
        frozen = np.zeros_like(lattice)
        frozen[(slice(None), *inner)] = lattice[(slice(None), *inner)] * 2 * self.displacement
        if frame.coarse is not None:
            frozen[frame.ndim - 1 - frame.coarse] = 0
        coarse = torch.from_numpy(frozen.astype(np.float32)).to(like.device)
        mode = "trilinear" if frame.ndim == 3 else "bilinear"
        fine = torch.nn.functional.interpolate(coarse[None], frame.shape, mode=mode, align_corners=True)[0]
        return fine.movedim(0, -1)
