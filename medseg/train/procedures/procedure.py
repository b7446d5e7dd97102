"""What every procedure is given and may do; plain supervision is the one that does nothing more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from medseg.train.sampler import IGNORED, Patches, Prepared, Sampler, Sampling

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medseg.train.objective import Objective
    from medseg.train.optimiser import Average

SEED_APART = 7_919
"""Unlabelled patches are drawn with a seed this far from that of labelled ones."""


@dataclass(frozen=True)
class Learning:
    """What a procedure works with.

    raw: the network. net: the same as training calls it. whole: makes of either the function images -> outputs that
    adds the border which unpadded convolutions lose. fabric: of Lightning, for its number type. average: the running
    average of the weights, None without. augment: (images, targets, rng) -> both changed, None without.
    """

    raw: nn.Module
    net: Callable[..., Any]
    whole: Callable[[Callable[..., Any]], Callable[[Tensor], Any]]
    fabric: Any
    objective: Objective
    average: Average | None
    augment: Callable[..., tuple[Tensor, Tensor]] | None

    @property
    def overlapping(self) -> bool:
        """Sigmoid regions instead of one softmax."""
        return self.objective.overlapping

    def ignored(self, images: Tensor) -> Tensor:
        """Targets for images (B, C, *S) of which nothing is labelled: (B, *S), or (B, R, *S), all 255."""
        import torch

        channels = (self.objective.channels,) if self.overlapping else ()
        size = (len(images), *channels, *images.shape[2:])
        return torch.full(size, IGNORED, dtype=torch.uint8, device=images.device)

    def probabilities(self, outputs: Any) -> Tensor:
        """(B, K, *S) float32 of logits or `Outputs`: softmax, or a sigmoid per region."""
        logits = getattr(outputs, "main", outputs).float()
        return logits.sigmoid() if self.overlapping else logits.softmax(dim=1)


class Procedure:
    """Plain supervision: nothing beside the loss on labelled batches.

    A procedure of its own overrides `extra`, and what it needs of the rest. Everything random in it must follow from
    torch's generator and the `rng` it is handed, both seeded by the number of the step, so that a resumed training
    equals an uncut one.
    """

    arguments: ClassVar[Mapping[str, tuple[float, str]]] = {}
    """name -> default, meaning."""

    needs_unlabelled: ClassVar[bool] = False
    decay: float | None = None
    """Decay of the averaged weights that it needs; `train.ema` has precedence."""

    note = ""
    """One sentence for the report."""

    def __init__(self, cases: Mapping[str, Prepared], sampling: Sampling, **arguments: float) -> None:
        """cases: those without a label. sampling: how patches of them are drawn."""
        self.cases = dict(cases)
        seed = sampling.seed + SEED_APART
        drawn = Sampling(sampling.patch_size, sampling.batch_size, 0.0, seed)
        self.sampler = Sampler(self.cases, drawn) if self.cases else None

    def begin(self, learning: Learning) -> None:
        """Called once, when network, average and a checkpoint's weights are in place."""
        self.learning = learning

    def batch(self, step: int) -> Patches | None:
        """The unlabelled patches of a step, read ahead by another thread; None when there are none."""
        return None if self.sampler is None else self.sampler.batch(step)

    def extra(self, images: Tensor, t: float, rng: np.random.Generator) -> Tensor | None:
        """What is added to the loss: images (B, C, *S) without labels, t in [0, 1) of the training."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep for it."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `tensors` gave."""


class Supervised(Procedure):
    """Learns from labelled cases alone."""
