"""Mean teacher. Tarvainen and Valpola 2017, arXiv:1703.01780.

The averaged weights are a teacher: on unlabelled images under different noise the network shall say what the teacher
says. Loss = supervised + w(t) * mean (p_student - p_teacher)^2, with w(t) = weight * exp(-5 (1 - t/ramp)^2) until
t = ramp (section 3 and appendix B; the ramp is Laine and Aila's, arXiv:1610.02242). The teacher is what is kept.

Differs from the paper: consistency on unlabelled cases alone (a labelled batch has its loss); the same random change of
shape and intensities reaches both, and only the noise differs, so that their voxels correspond; the teacher has no
dropout; the average's decay rises as (1 + n) / (10 + n) instead of 1 - 1/(n + 1) and stays constant afterwards.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from medseg.train.procedures.procedure import Learning, Procedure
from medseg.train.sampler import Prepared, Sampling

if TYPE_CHECKING:
    from torch import Tensor


class MeanTeacher(Procedure):
    """Consistency between the network and the average of its weights on unlabelled cases."""

    arguments: ClassVar[Mapping[str, tuple[float, str]]] = {
        "weight": (1.0, "largest weight of the consistency"),
        "ramp": (0.4, "share of the training in which that weight rises"),
        "noise": (0.1, "standard deviation of the noise on prepared images, drawn for both apart"),
        "decay": (0.99, "decay of the averaged weights, where train.ema gives none"),
    }
    needs_unlabelled = True

    def __init__(
        self,
        cases: Mapping[str, Prepared],
        sampling: Sampling,
        weight: float = 1.0,
        ramp: float = 0.4,
        noise: float = 0.1,
        decay: float = 0.99,
    ) -> None:
        super().__init__(cases, sampling)
        self.weight, self.ramp, self.noise, self.decay = weight, ramp, noise, decay
        self.note = (
            f"mean teacher: beside the labelled cases the network learnt on {len(self.cases)} cases without labels to "
            "agree with the average of its weights, which is kept"
        )

    def begin(self, learning: Learning) -> None:
        super().begin(learning)
        assert learning.average is not None
        self.teacher = copy.deepcopy(learning.raw)
        # Assigned, not copied: the teacher has the averaged weights at every step without any further work.
        self.teacher.load_state_dict(learning.average.weights, assign=True)
        self.teacher.requires_grad_(False).eval()

    def weight_at(self, t: float) -> float:
        """w(t)."""
        rest = 0.0 if self.ramp <= 0 else max(0.0, 1 - t / self.ramp)
        return self.weight * math.exp(-5 * rest * rest)

    def extra(self, images: Tensor, t: float, rng: np.random.Generator) -> Tensor | None:
        import torch

        learning = self.learning
        if learning.augment is not None:
            images, _ = learning.augment(images, learning.ignored(images), rng)
        shown, seen = (images + self.noise * torch.randn_like(images) for _ in range(2))
        with torch.no_grad(), learning.fabric.autocast():
            wanted = learning.probabilities(learning.whole(self.teacher)(shown))
        found = learning.probabilities(learning.whole(learning.net)(seen))
        return self.weight_at(t) * (found - wanted).square().mean()
