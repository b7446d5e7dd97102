"""The way back for grids whose axes are not at right angles (gantry tilt, sheared headers).

The network worked on a straight grid; every voxel of the case is looked up there through the two affines. As in
stream.py a plane of the case is painted once the planes it needs are there, and logits are interpolated only where
the surrounding voxels disagree.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from medseg.config import Plan
from medseg.predict.planes import winners
from medseg.predict.stream import Painter, Sink

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.ingest.prepare import PreparedImage


def painter_of(
    prepared: PreparedImage, plan: Plan, lead: int, sink: Sink | None = None, background: float = 0.5
) -> Painter:
    """What paints slabs onto the case's own grid: by common axes, or by affines where there are none."""
    return (Painter if prepared.straight else SlantedPainter)(prepared, plan, lead, sink, background)


class SlantedPainter(Painter):
    """A Painter that maps by the affines of both grids instead of along common axes."""

    def _prepare(self) -> None:
        to_grid = np.linalg.inv(self.prepared.geometry.affine) @ self.kept.affine
        order = [self.lead, *(a for a in range(3) if a != self.lead)]
        self._matrix = to_grid[np.ix_(order, order)]
        self._offset = to_grid[order, 3]
        self._sizes = [self.prepared.geometry.shape[a] for a in order]
        self._out = [self.kept.shape[a] for a in order]
        corners = np.array(list(product(*((0, n - 1) for n in self._out[1:]))), dtype=np.float64)
        spread = corners @ self._matrix[0, 1:]
        places = np.arange(self._out[0]) * self._matrix[0, 0] + self._offset[0]
        last = self._sizes[0] - 1
        self.low = np.clip(np.floor(places + spread.min()), 0, last).astype(int)
        self.high = np.clip(np.ceil(places + spread.max()), 0, last).astype(int)

    def _untouched(self) -> bool:
        return False

    def _paint_planes(self, planes: Tensor, ready: int) -> None:
        coarse = (planes > 0).byte() if self.regions is not None else winners(planes)[None]
        mixed = [_mixed(c) for c in coarse]
        for index in range(self._next, ready):
            corners, weights = self._neighbours(index, planes.device)
            self._give_plane(planes, corners, weights, index)
            for channel, (label, borders) in enumerate(zip(coarse, mixed)):
                logits = planes if self.regions is None else planes[channel : channel + 1]
                plane = _decided(logits, label, borders, corners, weights, self.regions is not None)
                view = (
                    self._view(self.positions) if self.regions is None else self._view(self.regions[channel])
                )
                view[index] = plane.reshape(self._out[1:]).cpu().numpy()

    def _neighbours(self, index: int, device: object) -> tuple[Tensor, Tensor]:
        """Lower neighbours (3, n) of a plane's voxels in the waiting planes, and the weights (3, n) of the upper ones."""
        import torch

        grids = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in self._out[1:]), indexing="ij")
        voxels = np.stack([np.full(grids[0].size, float(index)), *(g.ravel() for g in grids)])
        place = self._matrix[:3, :3] @ voxels + self._offset[:, None]
        # Beyond the field's edge the last plane counts, as in the way there.
        place = np.clip(place, 0, np.array(self._sizes)[:, None] - 1)
        low = np.minimum(np.floor(place), np.maximum(0, np.array(self._sizes)[:, None] - 2))
        weights = torch.from_numpy((place - low).astype(np.float32)).to(device)  # type: ignore[call-overload]
        low[0] -= self._first
        return torch.from_numpy(low.astype(np.int64)).to(device), weights  # type: ignore[call-overload]

    def _give_plane(self, planes: Tensor, low: Tensor, weights: Tensor, index: int) -> None:
        if self.sink is None:
            return
        plane = _interpolated(planes, low, weights).reshape(len(planes), *self._out[1:])
        self._hand_over(plane, index)


def _decided(
    logits: Tensor, coarse: Tensor, borders: Tensor, low: Tensor, weights: Tensor, is_region: bool
) -> Tensor:
    flat = _flat_index(low, coarse.shape)
    label = coarse.reshape(-1)[flat]
    where = borders.reshape(-1)[flat].nonzero().squeeze(1)
    if where.numel():
        picked = _interpolated(logits, low[:, where], weights[:, where])
        label[where] = (picked[0] > 0).byte() if is_region else winners(picked)
    return label.bool() if is_region else label


def _interpolated(planes: Tensor, low: Tensor, weights: Tensor) -> Tensor:
    """Trilinear values (K, n) of planes (K, d, h, w) at `low` + `weights`, both (3, n)."""
    import torch

    flat, shape = planes.reshape(len(planes), -1), planes.shape[1:]
    total = torch.zeros((len(planes), low.shape[1]), device=planes.device)
    for corner in product((0, 1), repeat=3):
        share = torch.ones(low.shape[1], device=planes.device)
        place = low.clone()
        for axis, upper in enumerate(corner):
            share = share * (weights[axis] if upper else 1 - weights[axis])
            place[axis] = (place[axis] + upper).clamp_(max=shape[axis] - 1)
        total.addcmul_(flat.index_select(1, _flat_index(place, shape)), share)
    return total


def _flat_index(place: Tensor, shape: tuple[int, ...]) -> Tensor:
    return (place[0] * shape[1] + place[1]) * shape[2] + place[2]


def _mixed(coarse: Tensor) -> Tensor:
    """Whether the 2x2x2 voxels from here upwards hold more than one label."""
    high, low = coarse, coarse
    for axis in range(3):
        high, low = _with_next(high, axis, largest=True), _with_next(low, axis, largest=False)
    return high != low


def _with_next(values: Tensor, axis: int, largest: bool) -> Tensor:
    import torch

    size = values.shape[axis]
    out = values.clone()
    if size > 1:
        here, following = values.narrow(axis, 0, size - 1), values.narrow(axis, 1, size - 1)
        out.narrow(axis, 0, size - 1).copy_((torch.maximum if largest else torch.minimum)(here, following))
    return out
