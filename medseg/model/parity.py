"""How well two forms of a network agree: in labels, not in bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

PARITY = 0.999
"""Smallest Dice of all classes together against float32 with which another form may take the network's place."""


class Agreement(NamedTuple):
    """dice: of all classes together. voxels: share of equal labels. largest: biggest difference of logits."""

    dice: float
    voxels: float
    largest: float

    @property
    def text(self) -> str:
        return f"Dice {self.dice:.5f}, {100 * self.voxels:.3f} % of voxels equal, logits within {self.largest:.3g}"


def agreement(ours: Tensor, theirs: Tensor, background: bool, overlapping: bool) -> Agreement:
    """Compares logits (B, K, *S). background: whether channel 0 is no class. Dice is 1 where neither finds anything."""
    ours, theirs = ours.cpu(), theirs.cpu()
    # Channel by channel: a third set of logits would double what a window needs.
    largest = max(
        float((left.float() - right.float()).abs().max())
        for left, right in zip(ours.unbind(1), theirs.unbind(1))
    )
    if overlapping:
        found, wanted = ours > 0, theirs > 0
        both, sizes = (found & wanted).sum(), found.sum() + wanted.sum()
    else:
        found, wanted = ours.argmax(1), theirs.argmax(1)
        first = int(background)
        both = ((found == wanted) & (wanted >= first)).sum()
        sizes = (found >= first).sum() + (wanted >= first).sum()
    dice = float(2 * both / sizes) if sizes else 1.0
    return Agreement(dice, float((found == wanted).float().mean()), largest)
