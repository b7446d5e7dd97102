"""Pseudo-labels in rounds of self-training. Lee 2013, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning
Method for Deep Neural Networks", ICML workshop on challenges in representation learning.

At the beginning of each round the weights are copied; until the next round the copy's confident answers on unlabelled
images are taken for labels. Loss = supervised + alpha(t) * loss on those labels, alpha rising in a straight line from 0
at the first round to its full height at the second (the paper's equations 15 and 16).

Differs from the paper: labels come from the weights at the beginning of a round (the paper's: of every step), are hard
only where the answer is confident, and are left out elsewhere.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from medseg.train.procedures.procedure import Learning, Procedure
from medseg.train.sampler import IGNORED, Prepared, Sampling

if TYPE_CHECKING:
    from torch import Tensor


class PseudoLabels(Procedure):
    """The network's own confident answers on unlabelled cases, learnt as if they were labels."""

    arguments: ClassVar[Mapping[str, tuple[float, str]]] = {
        "weight": (1.0, "largest weight of the loss on pseudo-labels"),
        "rounds": (3, "how often the labelling weights are renewed, evenly over the training"),
        "confidence": (0.9, "voxels answered with less than this probability are left out"),
    }
    needs_unlabelled = True

    def __init__(
        self,
        cases: Mapping[str, Prepared],
        sampling: Sampling,
        weight: float = 1.0,
        rounds: float = 3,
        confidence: float = 0.9,
    ) -> None:
        super().__init__(cases, sampling)
        self.weight, self.rounds, self.confidence = weight, max(1, int(rounds)), confidence
        self.round = 0
        self.note = (
            f"pseudo-labels: in {self.rounds} rounds the network also learnt from its own answers of at least "
            f"{confidence:g} probability on {len(self.cases)} cases without labels"
        )

    def begin(self, learning: Learning) -> None:
        super().begin(learning)
        self.labeller = copy.deepcopy(learning.raw).requires_grad_(False).eval()

    def weight_at(self, t: float) -> float:
        """alpha(t): 0 before the first round, full from the second on."""
        length = 1 / (self.rounds + 1)
        return self.weight * min(1.0, max(0.0, t / length - 1))

    def extra(self, images: Tensor, t: float, rng: np.random.Generator) -> Tensor | None:
        import torch

        number = int(t * (self.rounds + 1))
        if number == 0:
            return None
        if number != self.round:
            self._renew(number)
        learning = self.learning
        with torch.no_grad(), learning.fabric.autocast():
            targets = self.labels_of(learning.probabilities(learning.whole(self.labeller)(images)))
        if learning.augment is not None:
            images, targets = learning.augment(images, targets, rng)
        outputs = learning.whole(learning.net)(images)
        known = torch.ones(len(images), learning.objective.channels, dtype=torch.bool, device=images.device)
        return self.weight_at(t) * learning.objective(outputs, targets, known)

    def labels_of(self, probabilities: Tensor) -> Tensor:
        """(B, K, *S) -> the confident answers as targets: (B, *S) uint8, or (B, R, *S); 255 elsewhere."""
        if self.learning.overlapping:
            certain = (probabilities >= self.confidence) | (probabilities <= 1 - self.confidence)
            answer = (probabilities > 0.5).byte()
        else:
            highest, answer = probabilities.max(dim=1)
            certain, answer = highest >= self.confidence, answer.byte()
        return answer.masked_fill(~certain, IGNORED)

    def _renew(self, number: int) -> None:
        """The labelling weights become the network's, averaged where there is an average."""
        average = self.learning.average
        weights = self.learning.raw.state_dict() if average is None else average.weights
        self.labeller.load_state_dict(weights)
        self.round = number

    def tensors(self) -> dict[str, Tensor]:
        import torch

        return {"round": torch.tensor(self.round), **self.labeller.state_dict(prefix="labeller.")}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.round = int(tensors["round"])
        prefix = "labeller."
        self.labeller.load_state_dict(
            {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        )
