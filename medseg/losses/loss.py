"""A loss ready for use: the object that `table.build_loss` returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from medseg.core.errors import UserError
from medseg.losses.batch import prepare


@dataclass(frozen=True)
class Loss:
    """A loss that is ready for use; call it with a network's output and the labels.

    `loss(logits, target)` returns a scalar float32 tensor, whatever float type the logits have.
    logits (B, K, *S). target (B, *S) or (B, 1, *S) integers for exclusive classes (K = classes with background);
    (B, K, *S) of 0 and 1 for regions, which carry the ignore label in the channels where it holds, or one channel
    more that is 1 where a voxel is ignored in all of them.
    `known` (B, K) bool marks the classes that a sample's labels cover; the others are not learnt as background.
    background: whether channel 0 of exclusive classes is background, in which undrawn classes may hide.
    """

    name: str
    measure: Callable[..., Tensor]
    classes: int
    regions: bool
    ignore: int | None
    background: bool = True

    def __call__(self, logits: Tensor, target: Tensor, known: Tensor | None = None) -> Tensor:
        if logits.ndim < 3 or logits.shape[1] != self.classes:
            raise UserError(
                f"logits of shape {tuple(logits.shape)} for {self.classes} {'regions' if self.regions else 'classes'}",
                f"loss {self.name}",
                f"the network must return (batch, {self.classes}, *space)",
            )
        return self.measure(
            prepare(
                logits,
                target,
                regions=self.regions,
                ignore=self.ignore,
                known=known,
                background=self.background,
            )
        )
