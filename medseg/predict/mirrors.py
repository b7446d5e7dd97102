"""Mirrored copies of a window whose logits prediction averages, and which classes change places in them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, combinations
from typing import TYPE_CHECKING

from medseg.config import Plan, Predict

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Mirrors:
    """axes: of *S (0-based), all combinations of which are mirrored. across: the one of them along which the channels
    of `pairs` are exchanged: a mirrored patient's right lung is on the left."""

    axes: tuple[int, ...] = ()
    across: int | None = None
    pairs: tuple[tuple[int, int], ...] = ()

    @property
    def copies(self) -> list[tuple[int, ...]]:
        """The axes of each copy; the first has none."""
        axes = sorted(self.axes)
        return list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))

    def back(self, logits: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Logits (B, K, *S) of a mirrored window -> those of the window itself."""
        turned = logits.flip([axis + 2 for axis in axes])
        if self.across not in axes:
            return turned
        order = list(range(logits.shape[1]))
        for a, b in self.pairs:
            order[a], order[b] = b, a
        return turned[:, order]


NO_MIRRORS = Mirrors()


def mirrors_of(settings: Predict, plan: Plan) -> Mirrors:
    """What `predict.flips` asks for: the axes along which mirroring keeps the meaning, and left-right where the network
    was trained with the sides exchanged."""
    from medseg.ingest.augment.frame import side_positions

    if not (plan.flips if settings.flips == "auto" else settings.flips):
        return NO_MIRRORS
    across = 1 if plan.dims == 2 else 0
    pairs = side_positions(plan) if plan.swap_sides and across not in plan.mirror_axes else ()
    if not pairs:
        return Mirrors(tuple(plan.mirror_axes))
    return Mirrors((*plan.mirror_axes, across), across, pairs)
