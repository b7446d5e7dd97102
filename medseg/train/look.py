"""A look at held-out cases during training: whole prepared volumes, Dice and IoU on the prepared grid."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.config import Plan
from medseg.train.sampler import IGNORED, Prepared

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MOST_CASES = 8
OVERLAP = 0.25
"""Windows overlap less than in prediction: a look is for the curve, and it has to be cheap."""

COST_OF_A_STEP = 3.0
"""A training step on one patch costs about three times as much as predicting it."""


@dataclass
class Look:
    """Figures of one look. dice, iou: means over classes of the means over cases; None when nothing was there."""

    dice: float | None
    iou: float | None
    n: int
    seconds: float
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def dice_of_class(self) -> dict[str, float]:
        """Class name -> mean Dice, of the classes that were there."""
        return {name: row["dice"] for name, row in self.per_class.items()}

    def as_scores(self) -> dict[str, Any]:
        """What model.json keeps."""
        return {
            "dice": self.dice,
            "iou": self.iou,
            "n": self.n,
            "per_class": self.per_class,
            "on": "validation cases, prepared grid",
        }


class Looker:
    """Looks at the same few validation cases each time, so that the curve compares like with like.

    How many: at most 8, and so few that all looks together take less than a tenth of the training. A training that
    ends by steps decides that from the number of windows, so it does not depend on the clock; one that ends by
    minutes measures the first case.
    """

    def __init__(self, cases: Mapping[str, Prepared], plan: Plan, autocast: torch.dtype | None) -> None:
        names = sorted(cases)
        places = np.linspace(0, len(names) - 1, min(MOST_CASES, len(names))).round().astype(int)
        self.cases = {names[place]: cases[names[place]] for place in places} if names else {}
        self.plan, self.autocast = plan, autocast
        self.window = tuple(plan.window or plan.patch_size)

    def limit_by_windows(self, steps_between: int) -> None:
        """Keeps as many cases as fit a tenth of the work of `steps_between` training steps."""
        from medseg.predict.windows import Cut

        cut = Cut(self.window, OVERLAP, margin=self.plan.margin)
        room = 0.1 * steps_between * self.plan.batch_size * COST_OF_A_STEP
        patches = math.prod(self.window) / math.prod(self.plan.patch_size)
        self._keep([patches * cut.count(case.shape) for case in self.cases.values()], room)

    def limit_by_seconds(self, seconds_of_first: float, seconds: float) -> None:
        """Keeps as many cases as fit `seconds`, when the first took `seconds_of_first`."""
        self._keep([seconds_of_first] * len(self.cases), seconds)

    def _keep(self, costs: Sequence[float], room: float) -> None:
        kept = [name for name, used in zip(self.cases, np.cumsum(costs)) if used <= room]
        self.cases = {name: self.cases[name] for name in kept or list(self.cases)[:1]}

    def look(
        self, net: nn.Module, seconds: float | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Look | None:
        """Predicts and scores the cases; with `seconds`, the first look drops those that do not fit.

        None when `stop` became true between two cases: such a look is taken again later.
        """
        start = time.monotonic()
        counts: list[Counts] = []
        was_training = net.training
        net.eval()
        for case in list(self.cases.values()):
            if len(counts) >= len(self.cases) or stop():
                break
            counts.append(self._count(net, case))
            if seconds is not None and len(counts) == 1:
                self.limit_by_seconds(time.monotonic() - start, seconds)
        net.train(was_training)
        if stop():
            return None
        return summary(counts, [entry["name"] for entry in self.plan.classes], time.monotonic() - start)

    def _count(self, net: nn.Module, case: Prepared) -> Counts:
        import torch

        from medseg.predict.windows import predict_logits

        zeros = [0] * len(case.shape)
        image = torch.from_numpy(np.array(case.read_image(zeros, case.shape), dtype=np.float32))
        logits = predict_logits(
            net,
            image,
            self.window,
            self.plan.out_channels,
            overlap=OVERLAP,
            margin=self.plan.margin,
            autocast=self.autocast,
        )
        target = torch.from_numpy(np.array(case.read_target(zeros, case.shape)))
        found = count_overlap(logits, target.to(logits.device), self.plan)
        if case.known is not None:
            names = [entry["name"] for entry in self.plan.classes]
            found = found.without([k for k, name in enumerate(names) if name not in case.known])
        return found


@dataclass(frozen=True)
class Counts:
    """Voxels per class (without background): in both, in the prediction, in the target."""

    both: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]

    def without(self, positions: Sequence[int]) -> Counts:
        """The same with classes that nobody drew counted as absent."""
        parts = [np.array(part) for part in (self.both, self.predicted, self.true)]
        for part in parts:
            part[list(positions)] = 0
        return Counts(*parts)


def count_overlap(logits: Tensor, target: Tensor, plan: Plan) -> Counts:
    """logits (K, *S) and target (*S) or (R, *S) -> voxel counts of the classes."""
    import torch

    if plan.overlapping:
        valid = target != IGNORED
        found, true = (logits > 0) & valid, (target == 1) & valid
        space = tuple(range(1, target.ndim))
        parts = [mask.sum(space).cpu().numpy() for mask in (found & true, found, true)]
        return Counts(*parts)
    classes = plan.out_channels
    valid = target != IGNORED
    pairs = target[valid].long() * classes + logits.argmax(dim=0)[valid]
    table = torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes).cpu().numpy()
    first = int(plan.background)
    return Counts(table.diagonal()[first:].copy(), table.sum(0)[first:], table.sum(1)[first:])


def summary(counts: Sequence[Counts], names: Sequence[str], seconds: float) -> Look:
    """Means over cases, then over classes. A class that is absent in both is left out of that case's mean."""
    per_class: dict[str, dict[str, float]] = {}
    for position, name in enumerate(names):
        both = np.array([c.both[position] for c in counts], dtype=float)
        union = np.array([c.predicted[position] + c.true[position] for c in counts]) - both
        there = union > 0
        if there.any():
            iou = both[there] / union[there]
            dice = 2 * both[there] / (union[there] + both[there])
            per_class[name] = {
                "dice": float(dice.mean()),
                "iou": float(iou.mean()),
                "n": int(there.sum()),
            }
    if not per_class:
        return Look(None, None, len(counts), seconds)
    dice_mean, iou_mean = (
        float(np.mean([row[key] for row in per_class.values()])) for key in ("dice", "iou")
    )
    return Look(dice_mean, iou_mean, len(counts), seconds, per_class)


@contextmanager
def weights_of(net: nn.Module, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """The network has other weights inside the block, and exactly its own afterwards."""
    if weights is None:
        yield
        return
    own = {name: value.detach().clone() for name, value in net.state_dict().items()}
    net.load_state_dict(dict(weights))
    try:
        yield
    finally:
        net.load_state_dict(own)
