"""Deep supervision: one loss on several outputs of a network, each against labels of its own resolution.

Lee et al. 2015, arXiv:1409.5185; the weights 1, 1/2, 1/4 ... are nnU-Net's (doi:10.1038/s41592-020-01008-z).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.core.errors import UserError


@dataclass(frozen=True)
class DeepSupervision:
    """Calls a loss on `outputs.main` and each of `outputs.auxiliary`; a plain tensor passes through unchanged.

    `weights` are for the main output first and are normalised to a sum of 1; None halves them from output to output
    and, with `drop_lowest`, gives the coarsest none. The target is that of the main output.
    """

    loss: Callable[..., Tensor]
    weights: tuple[float, ...] | None = None
    drop_lowest: bool = True

    def __call__(self, outputs: object, target: Tensor, known: Tensor | None = None) -> Tensor:
        if isinstance(outputs, Tensor):
            return self.loss(outputs, target, known)
        heads: tuple[Tensor, ...] = (outputs.main, *(getattr(outputs, "auxiliary", None) or ()))  # type: ignore[attr-defined]
        weights = self._weights(len(heads))
        parts = [
            weight * self.loss(head, nearest_labels(target, head.shape[2:]), known)
            for weight, head in zip(weights, heads, strict=True)
            if weight
        ]
        return torch.stack(parts).sum()

    def _weights(self, outputs: int) -> tuple[float, ...]:
        if self.weights is None:
            return halving_weights(outputs, self.drop_lowest)
        if len(self.weights) != outputs or not sum(self.weights) > 0:
            raise UserError(
                f"deep supervision weights {list(self.weights)} for {outputs} outputs",
                "train.loss",
                "give one weight an output, finest first, not all 0",
            )
        return tuple(weight / sum(self.weights) for weight in self.weights)


def deep_supervision(
    loss: Callable[..., Tensor], weights: Sequence[float] | None = None, *, drop_lowest: bool = True
) -> DeepSupervision:
    """Wrap a loss for networks with auxiliary outputs; see `DeepSupervision`."""
    return DeepSupervision(loss, None if weights is None else tuple(float(w) for w in weights), drop_lowest)


def halving_weights(outputs: int, drop_lowest: bool = True) -> tuple[float, ...]:
    """1, 1/2, 1/4 ... normalised to a sum of 1.

    >>> halving_weights(3)
    (0.6666666666666666, 0.3333333333333333, 0.0)
    >>> halving_weights(1)
    (1.0,)
    """
    raw = [0.5**i for i in range(outputs)]
    if drop_lowest and outputs > 1:
        raw[-1] = 0.0
    return tuple(value / sum(raw) for value in raw)


def nearest_labels(target: Tensor, size: Sequence[int]) -> Tensor:
    """Labels on a coarser grid over the same field of view; each voxel takes the value at its centre.

    Works on the last `len(size)` axes of a tensor of any type, so labels stay whole numbers.
    """
    for axis, new in enumerate(size, start=target.ndim - len(size)):
        old = target.shape[axis]
        if old != new:
            centre = (torch.arange(new, device=target.device) + 0.5) * (old / new)
            target = target.index_select(axis, centre.long().clamp_max(old - 1))
    return target
