"""One plane at a time: interpolation between two grids along their common axes, and the class that wins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medseg.ingest.resample import axis_matrix

if TYPE_CHECKING:
    from torch import Tensor

MIXED_SHARE = 0.35
"""Share of border voxels in a plane above which interpolating the whole plane is cheaper than picking them out."""

PORTION = 2**19
"""Logits that are interpolated at once along the borders of classes."""


@dataclass(frozen=True, eq=False)
class Axis:
    """Interpolation along one axis, from n_in planes to n_out: weights (n_out, n_in), rows sum to 1, none negative.

    low, high: first and last plane that each output needs. same: nothing changes. linear: plain linear
    interpolation, which PyTorch has a fast routine for.
    """

    matrix: npt.NDArray[np.float32]
    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]
    same: bool = False
    linear: bool = False
    cache: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def between(cls, n_in: int, n_out: int, order: int, widen: bool) -> Axis:
        """Field edges coincide, half-pixel centres, edges repeated."""
        if n_in == n_out:
            return cls(np.eye(n_in, dtype=np.float32), np.arange(n_in), np.arange(n_in), True, True)
        matrix = axis_matrix(n_in, n_out, order, widen)
        used = matrix > 0
        linear = order == 1 and (n_out > n_in or not widen)
        return cls(matrix, used.argmax(axis=1), n_in - 1 - used[:, ::-1].argmax(axis=1), linear=linear)

    @cached_property
    def is_sharp(self) -> bool:
        """Whether every output needs at most two neighbouring planes."""
        return bool((self.high - self.low <= 1).all())

    def at(self, planes: Tensor, index: int, first: int) -> Tensor:
        """Output plane `index` of planes (K, n, *rest) whose first one is number `first` of the grid."""
        import torch

        low, high = int(self.low[index]), int(self.high[index])
        if low == high:
            return planes[:, low - first]
        if high == low + 1:
            return torch.lerp(
                planes[:, low - first], planes[:, high - first], float(self.matrix[index, high])
            )
        weights = torch.from_numpy(self.matrix[index, low : high + 1].copy()).to(planes.device)
        return torch.tensordot(planes[:, low - first : high + 1 - first], weights, dims=([1], [0]))

    def along(self, values: Tensor, position: int) -> Tensor:
        """Interpolates axis `position` of `values`, everywhere."""
        import torch

        if self.same:
            return values
        if not self.is_sharp:
            return torch.tensordot(values, self._tensor("matrix", values), dims=([position], [1])).movedim(
                -1, position
            )
        below = values.index_select(position, self._tensor("low", values))
        above = values.index_select(position, self._tensor("high", values))
        weights = self._tensor("weight", values)
        return torch.lerp(below, above, weights.reshape([-1] + [1] * (values.ndim - position - 1)))

    def select(self, values: Tensor, position: int) -> Tensor:
        """The lower neighbour of every output along axis `position`."""
        return values if self.same else values.index_select(position, self._tensor("low", values))

    def points(self, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Lower and upper neighbour of some outputs and the weight of the upper one."""
        return tuple(self._tensor(name, outputs)[outputs] for name in ("low", "high", "weight"))  # type: ignore[return-value]

    def _tensor(self, name: str, like: Tensor) -> Tensor:
        import torch

        key = f"{name} {like.device}"
        if key not in self.cache:
            if name == "weight":
                rows = np.arange(len(self.high))
                array = np.where(self.high > self.low, self.matrix[rows, self.high], 0).astype(np.float32)
            else:
                array = np.array(getattr(self, name))
            self.cache[key] = torch.from_numpy(array).to(like.device)
        return self.cache[key]


def winners(channels: Iterable[Tensor]) -> Tensor:
    """Position of the largest of K tensors (...) as uint8 (...); ties go to the smallest position.

    A running maximum: several times faster on a CPU than an argmax over the first axis, and the channels may be made
    one after the other.
    """
    import torch

    rest = iter(channels)
    best = next(rest).clone()
    label = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for position, channel in enumerate(rest, start=1):
        label.masked_fill_(channel > best, position)
        torch.maximum(best, channel, out=best)
    return label


def decide_plane(plane: Tensor, axes: Sequence[Axis]) -> Tensor:
    """Logits (K, *s) of one plane on the network's grid -> positions uint8 on the case's grid (*S).

    Exactly the winners of the interpolated logits, which are worked out only where neighbours disagree.
    """
    if not all(axis.is_sharp for axis in axes):
        return winners(_one_by_one(plane, axes))
    coarse = winners(plane)
    if all(axis.same for axis in axes):
        return coarse
    mixed = _spread(_mixed(coarse), axes).flatten().nonzero().squeeze(1)
    label = _spread(coarse, axes)
    if mixed.numel() > MIXED_SHARE * label.numel():
        return winners(_one_by_one(plane, axes))
    for some in _portions(mixed, len(plane)):
        label.view(-1)[some] = winners(_picked(plane, some, label.shape, axes))
    return label


def threshold_plane(plane: Tensor, axes: Sequence[Axis]) -> Tensor:
    """Logits (*s) of one region -> booleans on the case's grid: the interpolated probability is above one half."""
    if not all(axis.is_sharp for axis in axes):
        return everywhere(plane[None], axes)[0] > 0
    coarse = (plane > 0).byte()
    mixed = _spread(_mixed(coarse), axes).flatten().nonzero().squeeze(1)
    inside = _spread(coarse, axes).bool()
    for some in _portions(mixed, 1):
        inside.view(-1)[some] = _picked(plane[None], some, inside.shape, axes)[0] > 0
    return inside


def _portions(points: Tensor, channels: int) -> tuple[Tensor, ...]:
    """Points in portions whose logits stay in the processor's cache."""
    return points.split(max(1, PORTION // channels)) if points.numel() else ()


def everywhere(plane: Tensor, axes: Sequence[Axis]) -> Tensor:
    """Interpolates (K, *s) to the whole plane of the case (K, *S)."""
    if len(axes) == 2 and all(axis.linear for axis in axes):
        from torch.nn.functional import interpolate

        size = [len(axis.high) for axis in axes]
        return interpolate(plane[None], size, mode="bilinear", align_corners=False)[0]
    for position, axis in enumerate(axes, start=1):
        plane = axis.along(plane, position)
    return plane


def _one_by_one(plane: Tensor, axes: Sequence[Axis]) -> Iterator[Tensor]:
    """The interpolated channels of a plane; only one of them exists at a time."""
    return (everywhere(channel[None], axes)[0] for channel in plane)


def _spread(coarse: Tensor, axes: Sequence[Axis]) -> Tensor:
    """The lower neighbour's value for every voxel of the case's plane (a copy that may be changed)."""
    for position, axis in enumerate(axes):
        coarse = axis.select(coarse, position)
    return coarse.contiguous()


def _mixed(coarse: Tensor) -> Tensor:
    """Whether a voxel's label differs from that of any upper neighbour, the diagonal one included."""
    import torch

    mixed = torch.zeros(coarse.shape, dtype=torch.bool, device=coarse.device)
    if coarse.ndim == 1:
        mixed[:-1] = coarse[:-1] != coarse[1:]
        return mixed
    rows, columns = coarse[:-1] != coarse[1:], coarse[:, :-1] != coarse[:, 1:]
    mixed[:-1] |= rows
    mixed[:, :-1] |= columns
    mixed[:-1, :-1] |= rows[:, 1:] | columns[1:]
    return mixed


def _picked(plane: Tensor, where: Tensor, shape: Sequence[int], axes: Sequence[Axis]) -> Tensor:
    """Interpolated logits (K, n) at flat indices `where` of the case's plane."""
    import torch

    flat = plane.reshape(len(plane), -1)
    if len(axes) == 1:
        low, high, weight = axes[0].points(where)
        return torch.lerp(flat.index_select(1, low), flat.index_select(1, high), weight)
    width = plane.shape[2]
    y_low, y_high, y_weight = axes[0].points(torch.div(where, shape[1], rounding_mode="floor"))
    x_low, x_high, x_weight = axes[1].points(where % shape[1])
    rows = [
        torch.lerp(
            flat.index_select(1, y * width + x_low), flat.index_select(1, y * width + x_high), x_weight
        )
        for y in (y_low, y_high)
    ]
    return torch.lerp(rows[0], rows[1], y_weight)
