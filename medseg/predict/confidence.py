"""How sure a network is of what it drew, class by class: mean probability, entropy, and how far several answers differ.

All of it is taken on the network's own grid while the case streams by, before borders are moved and parts are removed:
nothing of the case's size is kept, and large grids are looked at in every second or third voxel along each axis.
Probabilities of a network are not calibrated: the numbers order the cases of one model and are no chance of being
right. The Dice between answers is the measure of quality of Roy et al. 2019 (doi:10.1016/j.neuroimage.2019.03.042).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.predict.planes import winners

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.predict.head import Head
    from medseg.predict.windows import Slab

MOST_VOXELS = 2**22
"""Voxels of a case that are looked at, about; larger grids are thinned."""

PORTION = 2**20
"""Logits that are turned into probabilities at once."""

Labels = list[npt.NDArray[Any]]

FIGURES = ("probability", "entropy", "disagreement")
"""What is known of a class, and of a case; the last one where several answers are compared (`predict.disagreement`)."""


class Confidence:
    """Adds up probabilities and entropies over the voxels of each class, slab by slab.

    shape: of the network's grid; lead: the axis along which slabs come. channels: K logits; background: whether the
    first of them is no class; overlapping: whether every channel is a region of its own.
    """

    def __init__(
        self, shape: Sequence[int], lead: int, channels: int, background: bool, overlapping: bool
    ) -> None:
        self.lead, self.background, self.overlapping = lead, background, overlapping
        self.step = thinning(shape)
        self.sums = np.zeros((3, channels - (background and not overlapping)))

    def take(self, slab: Slab) -> None:
        """Looks at logits (K, *S) of planes that are final; the tensor is not kept."""
        axis = self.lead + 1
        place = [slice(None), *(slice(None, None, self.step) for _ in slab.logits.shape[1:])]
        place[axis] = slice(-slab.start % self.step, None, self.step)
        logits = slab.logits[tuple(place)]
        if not logits.numel():
            return
        planes = max(1, PORTION // (logits.numel() // logits.shape[axis]))
        for some in logits.split(planes, dim=axis):
            self._add(some.reshape(len(some), -1).float())

    def _add(self, logits: Tensor) -> None:
        if self.overlapping:
            for position, channel in enumerate(logits):
                inside = channel[channel > 0]
                self.sums[:, position] += len(inside), *_of_region(inside)
            return
        label = winners(logits)
        if self.background:
            found = label.nonzero().squeeze(1)
            label, logits = label[found] - 1, logits[:, found]
        if not label.numel():
            return
        logs = logits.log_softmax(dim=0)
        entropy = -(logs.exp() * logs).sum(dim=0) / math.log(max(2, len(logs)))
        positions, count = label.cpu().numpy(), self.sums.shape[1]
        for row, weights in enumerate((None, logs.amax(dim=0).exp(), entropy)):
            values = None if weights is None else weights.double().cpu().numpy()
            self.sums[row] += np.bincount(positions, values, count)


def _of_region(logits: Tensor) -> tuple[float, float]:
    """Sums over voxels (n) inside a region of its probability, and of the entropy of yes and no, at most 1 each."""
    from torch.nn.functional import logsigmoid

    yes, no = logsigmoid(logits), logsigmoid(-logits)
    entropy = -(yes.exp() * yes + no.exp() * no) / math.log(2)
    return float(yes.exp().double().sum()), float(entropy.double().sum())


class Disagreement:
    """How much the labels of several answers overlap with those of the mask, class by class.

    The answers are those of an ensemble's members, of mirrored copies, or of passes with dropout.
    """

    def __init__(self, channels: int, background: bool, overlapping: bool) -> None:
        self.background, self.overlapping = background, overlapping
        self.both = np.zeros(channels - (background and not overlapping))
        self.sizes = np.zeros_like(self.both)

    def take(self, members: Sequence[Labels], mean: Labels) -> None:
        """Compares the `labels` of each answer with those of the mask, which is their mean."""
        for member in members:
            for channel, (mine, ours) in enumerate(zip(member, mean)):
                if self.overlapping:
                    self.both[channel] += np.count_nonzero(mine & ours)
                    self.sizes[channel] += np.count_nonzero(mine) + np.count_nonzero(ours)
                else:
                    self.both += self._counts(mine[mine == ours])
                    self.sizes += self._counts(mine) + self._counts(ours)

    def labels(self, logits: Tensor, head: Head | None = None) -> Labels:
        """Of logits (K, *S): one array of positions, or regions as booleans; large ones are thinned.

        head: the last layer, where features (F, *S) are given in the place of logits.
        """
        step = thinning(logits.shape[1:], 2**17)
        thin = logits[(slice(None), *(slice(None, None, step) for _ in logits.shape[1:]))]
        thin = thin if head is None else head(thin)
        found = thin > 0 if self.overlapping else winners(thin)[None]
        return list(found.cpu().numpy())

    def _counts(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        first = int(self.background)
        return np.bincount(labels.ravel(), minlength=len(self.both) + first)[first:]


def thinning(shape: Sequence[int], most: int = MOST_VOXELS) -> int:
    """Every how many voxels along each axis a grid is looked at, so that about `most` of them are.

    >>> thinning((100, 100, 100)), thinning((280, 280, 270)), thinning((4000, 3000))
    (1, 2, 2)
    """
    return max(1, math.ceil((math.prod(shape) / most) ** (1 / len(shape)) - 1e-9))


def summary(
    names: Sequence[str], seen: Confidence, differing: Disagreement | None
) -> dict[str, Mapping[str, Any]]:
    """{"case": figures over the voxels of all classes, "classes": name -> figures}, those of FIGURES, from 0 to 1.

    Classes of which no voxel was seen are left out; a case without any has no figures. disagreement: 1 - Dice between
    the answers and the mask.
    """
    both, sizes = (differing.both, differing.sizes) if differing else (None, None)
    classes = {}
    for position, name in enumerate(names):
        part = slice(position, position + 1)
        found = _figures(seen.sums[:, part], both if both is None else both[part], sizes if sizes is None else sizes[part])  # fmt: skip
        if found:
            classes[name] = found
    return {"case": _figures(seen.sums, both, sizes), "classes": classes}


def _figures(
    sums: npt.NDArray[Any], both: npt.NDArray[Any] | None, sizes: npt.NDArray[Any] | None
) -> dict[str, float]:
    voxels, probability, entropy = sums.sum(axis=1)
    found = {}
    if voxels:
        found = {
            "probability": round(float(probability / voxels), 4),
            "entropy": max(0.0, round(float(entropy / voxels), 4)),
        }
    if both is not None and sizes is not None and sizes.sum():
        found["disagreement"] = round(float(1 - 2 * both.sum() / sizes.sum()), 4)
    return found
