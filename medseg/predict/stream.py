"""From slabs of logits on the network's grid to labels on the case's own grid, plane by plane.

Nothing of the size classes x case is ever held. Two facts make it cheap without changing a label:
- interpolation is linear and separable, so a plane of the case needs two planes of the network's grid;
- it is convex: where all surrounding voxels of the network's grid have one and the same largest class, that class is
  the largest in between as well. Only where they differ, along the borders of classes, logits are interpolated.

The mapping is by geometry alone: no transform is remembered and inverted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.config import Plan
from medseg.core.geometry import reorient_array
from medseg.ingest import resample
from medseg.ingest.prepare import PreparedImage
from medseg.predict.planes import Axis, decide_plane, everywhere, threshold_plane, winners
from medseg.predict.windows import Slab

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 16
"""Planes that are taken over from a slab at once: whole cache lines of it, and little memory."""

Labels = npt.NDArray[np.uint8]
Sink = Callable[[tuple[slice, ...], "Tensor"], None]
"""Takes probabilities (K, *box) for a box of the RAS-ordered, cropped case."""


class Painter:
    """Takes slabs in order along their lead axis and paints positions of classes on the case's own grid.

    positions: uint8 (*S) in the file's axis order, 0 outside the box that the network saw.
    regions: booleans (R, *S) where classes overlap, else None. sink: also wants the probabilities (slower: they are
    interpolated everywhere). background: a voxel is background where p / (p + q) is at least this, of the background's
    probability p and the likeliest class's q; the sink's probabilities are as they were.
    """

    def __init__(
        self,
        prepared: PreparedImage,
        plan: Plan,
        lead: int,
        sink: Sink | None = None,
        background: float = 0.5,
    ) -> None:
        self.prepared, self.plan, self.lead, self.sink = prepared, plan, lead, sink
        self.background = background
        # Log odds, a constant that interpolation keeps: logits are shifted by it as they come.
        self._lean = math.log(background / (1 - background)) if plan.background or plan.overlapping else 0.0
        self.kept = prepared.kept
        channels = plan.out_channels if plan.overlapping else 0
        self.positions = _lead_first(prepared, lead, ())
        self.regions = _lead_first(prepared, lead, (channels,)).view(np.bool_) if channels else None
        self._waiting: list[Tensor] = []
        self._first = 0
        self._next = 0
        self._prepare()

    def take(self, slab: Slab) -> None:
        """Paints every plane of the case that this slab completes."""
        logits = slab.logits.movedim(slab.lead + 1, 1)
        for start in range(slab.start, slab.stop, CHUNK):
            stop = min(start + CHUNK, slab.stop)
            chunk = self._taken(logits[:, start - slab.start : stop - slab.start])
            if self._untouched():
                self._paint_directly(chunk, start, stop)
            else:
                self._waiting.append(chunk)
                self._paint(self._join(), stop)

    def put(self, index: int, chances: Tensor) -> None:
        """Paints plane `index` of the case from probabilities (K, *S) that were worked out elsewhere."""
        if self.sink is not None:
            self._give(chances, index)
        if self.regions is not None:
            for region, channel in zip(self._views(self.regions), chances):
                region[index] = (channel > 1 - self.background).cpu().numpy()
        else:
            leaning = self._lean_over(chances.log()) if self._lean else chances
            self._view(self.positions)[index] = winners(leaning).cpu().numpy()

    def finish(self) -> tuple[Labels, npt.NDArray[np.bool_] | None]:
        """Positions of classes and regions; every slab must have been taken."""
        return self.positions, self.regions

    # Which planes of the case can be painted, and which planes of the network they still need.

    def _prepare(self) -> None:
        here, there = self.prepared.geometry, self.kept
        sampling = resample.label_sampling(here.spacing, there.spacing, self.plan.image_order)
        self.axes = [
            Axis.between(n_in, n_out, order, sampling.widen)
            for n_in, n_out, order in zip(here.shape, there.shape, sampling.orders)
        ]
        self.low, self.high = self.axes[self.lead].low, self.axes[self.lead].high

    def _taken(self, logits: Tensor) -> Tensor:
        """Planes of a lent slab, contiguous float32, with the lean of the classes against background."""
        import torch

        if not self._lean:
            return logits.float().contiguous()
        return self._lean_over(logits.to(torch.float32, copy=True, memory_format=torch.contiguous_format))

    def _lean_over(self, logits: Tensor, sign: int = 1) -> Tensor:
        """Adds what prefers classes to background to logits (K, ...), in place; sign -1 takes it away."""
        if self.plan.overlapping:
            logits += sign * self._lean
        else:
            logits[0] -= sign * self._lean
        return logits

    def _untouched(self) -> bool:
        return all(axis.same for axis in self.axes) and self.sink is None

    def _join(self) -> Tensor:
        import torch

        return self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting, dim=1)

    def _keep(self, planes: Tensor, stop: int) -> None:
        """Copies the few planes that later ones still need, since a slab is only lent."""
        needed = stop if self._next >= len(self.low) else min(stop, int(self.low[self._next]))
        self._waiting = [planes[:, needed - self._first :].clone()] if needed < stop else []
        self._first = needed

    # Painting.

    def _paint_directly(self, logits: Tensor, start: int, stop: int) -> None:
        """The case lies on the network's grid already: no interpolation at all."""
        if self.regions is not None:
            for region, channel in zip(self._views(self.regions), logits):
                region[start:stop] = (channel > 0).cpu().numpy()
        else:
            self._view(self.positions)[start:stop] = winners(logits).cpu().numpy()

    def _paint(self, planes: Tensor, stop: int) -> None:
        """Paints the planes of the case for which all planes of the network before `stop` suffice."""
        ready = int(np.searchsorted(self.high, stop))
        self._paint_planes(planes, ready)
        self._next = ready
        self._keep(planes, stop)

    def _paint_planes(self, planes: Tensor, ready: int) -> None:
        rest = [axis for i, axis in enumerate(self.axes) if i != self.lead]
        for index in range(self._next, ready):
            plane = self.axes[self.lead].at(planes, index, self._first)
            if self.sink is not None:
                self._hand_over(everywhere(plane, rest), index)
            if self.regions is not None:
                for region, channel in zip(self._views(self.regions), plane):
                    region[index] = threshold_plane(channel, rest).cpu().numpy()
            else:
                self._view(self.positions)[index] = decide_plane(plane, rest).cpu().numpy()

    def _hand_over(self, plane: Tensor, index: int) -> None:
        """Gives the probabilities of one plane of the case, leaning logits (K, *S), to the sink."""
        if self._lean:
            plane = self._lean_over(plane.clone(), -1)
        self._give(plane.sigmoid() if self.plan.overlapping else plane.softmax(dim=0), index)

    def _give(self, chances: Tensor, index: int) -> None:
        """Gives probabilities (K, *S) of one plane of the case to the sink."""
        box = [slice(0, n) for n in self.kept.shape]
        box[self.lead] = slice(index, index + 1)
        if self.sink is not None:
            self.sink(tuple(box), chances.unsqueeze(self.lead + 1))

    def _view(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The box that the network saw, RAS-ordered, the lead axis first: a view into the case's own array."""
        turned = reorient_array(array, self.prepared.order, self.prepared.flips)[self.prepared.box]
        return np.moveaxis(turned, self.lead, 0)

    def _views(self, regions: npt.NDArray[np.bool_]) -> list[npt.NDArray[Any]]:
        return [self._view(region) for region in regions]


def _lead_first(prepared: PreparedImage, lead: int, channels: tuple[int, ...]) -> Labels:
    """Zeros (*channels, *S) in the file's axis order, in memory with the lead axis slowest: planes are then whole."""
    axis = prepared.order[lead]
    shape = prepared.source.shape
    moved = (shape[axis], *(n for a, n in enumerate(shape) if a != axis))
    array = np.zeros((*channels, *moved), np.uint8)
    return np.moveaxis(array, len(channels), len(channels) + axis)
