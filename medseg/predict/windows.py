"""Sliding windows: where they lie, how they are blended, and logits slab by slab as soon as they are final.

The tiling, the Gaussian weights and the order of padding are nnU-Net's (Isensee et al. 2021,
doi:10.1038/s41592-020-01008-z). Sums are kept in float32 (nnU-Net sums in float16, which rounds the logits at the edges
of a volume to whole numbers), and only for the planes that a later window can still touch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.predict.head import Head, put_off

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medseg.config import Plan, Predict

Floats = npt.NDArray[np.float32]
Runner = Callable[["Tensor"], "Tensor"]
"""Windows (B, C, *patch) -> logits (B, K, *patch), in any floating number type."""

SIGMAS = 8.0
"""A window's size in standard deviations of its Gaussian weights."""

PEAK = 10.0
"""Largest Gaussian weight."""

HEAD_PLANES = 8
"""Planes whose logits are worked out at once where a network's last layer was put off."""

AIR_LOGIT = 1000.0
"""Added to the background wherever a window was left out: far above what networks answer, far below float16's end."""


@dataclass(frozen=True)
class Cut:
    """How a grid is cut into windows.

    patch: voxels of a window. overlap: share of a window that its neighbour sees again. batch_size: windows computed
    at once. half_sums: keep the sums of open planes in float16, which halves their memory and moves logits by less
    than a thousandth of their size. margin: voxels of padding beyond the grid that windows may reach into.
    along: the axis that is walked along; None: that which keeps the fewest logits in memory. turned: axes along which
    windows are laid out from the far end, as for a network that was trained on axes running the other way.
    """

    patch: tuple[int, ...]
    overlap: float = 0.5
    batch_size: int = 1
    half_sums: bool = False
    margin: int = 0
    along: int | None = None
    turned: tuple[int, ...] = ()

    def padded(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The grid with its margins, padded to at least one window."""
        return tuple(max(n + 2 * self.margin, p) for n, p in zip(shape, self.patch))

    def below(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Voxels of padding before the first voxel, an axis."""
        padded = self.padded(shape)
        return tuple((m - n + (a in self.turned)) // 2 for a, (n, m) in enumerate(zip(shape, padded)))

    def starts(self, shape: Sequence[int]) -> list[list[int]]:
        """First voxels of the windows along each axis of the padded grid."""
        return self.starts_on(self.padded(shape))

    def starts_on(self, padded: Sequence[int]) -> list[list[int]]:
        """First voxels of the windows along each axis of a grid that is padded already."""
        found = window_starts(padded, self.patch, self.overlap)
        for axis in self.turned:
            last = padded[axis] - self.patch[axis]
            found[axis] = [last - start for start in reversed(found[axis])]
        return found

    def count(self, shape: Sequence[int]) -> int:
        """How many windows cover the grid."""
        return math.prod(len(s) for s in self.starts(shape))

    def lead(self, shape: Sequence[int]) -> int:
        """The axis that is walked along: the one that was asked for, else that which keeps the fewest logits."""
        if self.along is not None:
            return self.along
        return min(range(len(shape)), key=lambda a: (self.patch[a] / self.padded(shape)[a], a))


class Skip(NamedTuple):
    """Windows (indices along each axis) that are not computed: their voxels are background.

    background: whether channel 0 is background; else no class is said to be there at all.
    """

    windows: frozenset[tuple[int, ...]] = frozenset()
    background: bool = True


NOTHING_SKIPPED = Skip()


class Slab(NamedTuple):
    """Final logits (K, *S), float32 or float16, of the planes start..stop along axis `lead` of the grid."""

    lead: int
    start: int
    stop: int
    logits: Tensor


def window_starts(shape: Sequence[int], patch: Sequence[int], overlap: float) -> list[list[int]]:
    """First voxels of the windows along each axis: even steps of at most (1 - overlap) patch, the last one flush.

    >>> window_starts((110,), (64,), 0.5)
    [[0, 23, 46]]
    """
    found = []
    for n, p in zip(shape, patch):
        room = max(0, n - p)
        count = math.ceil(room / max(1.0, p * (1 - overlap))) + 1
        step = room / (count - 1) if count > 1 else 0.0
        found.append([int(np.round(step * i)) for i in range(count)])
    return found


def window_size(settings: Predict, plan: Plan) -> tuple[int, ...]:
    """Voxels of a window. Raises UserError where `predict.window` has another number of axes than the model."""
    asked = settings.window
    if isinstance(asked, str):
        return tuple(plan.window or plan.patch_size)
    if len(asked) != plan.dims:
        hint = f"give {plan.dims} numbers, as in {list(plan.patch_size)}, the patches that it was trained on"
        raise UserError(f"{asked} for a model of {plan.dims}D images", "predict.window", hint)
    return tuple(asked)


def profile(size: int) -> npt.NDArray[np.float64]:
    """Gaussian weights of one axis: sigma = size / 8, centre at size // 2, largest value 1."""
    distance = np.arange(size) - size // 2
    weights = np.exp(-0.5 * (distance / (size / SIGMAS)) ** 2)
    # The peers cut the Gaussian off at four sigma and put the smallest weight beyond it.
    kept = np.abs(distance) <= int(4 * size / SIGMAS + 0.5)
    return np.where(kept, weights, weights[kept].min())


def importance(patch: Sequence[int]) -> Floats:
    """Gaussian weights of a window, (*patch) float32, largest value 10: the product of its axes' profiles."""
    weights = np.array(PEAK)
    for size in patch:
        weights = weights[..., None] * profile(size)
    return weights.astype(np.float32)


def shares(size: int, patch: int, starts: Sequence[int], turned: bool = False) -> list[Floats]:
    """What each window contributes along one axis: its profile over the sum of all; the shares of a voxel sum to 1.

    Windows lie on a product grid, so the shares of a volume are products of the shares of its axes. turned: the profile
    is mirrored, since the centre of an even one lies right of the middle.
    """
    weights = profile(patch)[:: -1 if turned else 1]
    total = np.zeros(size)
    for start in starts:
        total[start : start + patch] += weights
    return [(weights / total[start : start + patch]).astype(np.float32) for start in starts]


def predict_logits(
    net: nn.Module, image: Tensor, patch: Sequence[int], out_channels: int, **settings: Any
) -> Tensor:
    """Logits (out_channels, *S) float32 of an image (C, *S), all at once, on the network's device.

    settings: overlap (0.5), batch_size (1), margin (0); mirrors, autocast, divisor as in `engines.eager.Eager`.
    For whole cases at full size use `stream_logits`, which never holds all logits.
    """
    import torch

    from medseg.predict.engines.eager import Eager

    cut = Cut(tuple(patch), settings.pop("overlap", 0.5), settings.pop("batch_size", 1),
              margin=settings.pop("margin", 0))  # fmt: skip
    run = Eager(net, **settings)
    out = torch.empty((out_channels, *image.shape[1:]), device=run.blend_on)
    for slab in stream_logits(run, image, cut, out_channels):
        out.narrow(slab.lead + 1, slab.start, slab.stop - slab.start).copy_(slab.logits)
    return out


def stream_logits(
    run: Runner,
    image: Tensor,
    cut: Cut,
    out_channels: int,
    tick: Callable[[int], None] | None = None,
    skip: Skip = NOTHING_SKIPPED,
) -> Iterator[Slab]:
    """Yields the logits of an image (C, *S) float32 in slabs along `cut.lead`, first to last, without gaps.

    A slab's tensor is only valid until the next one is asked for. Held at any time: logits of one window's depth,
    4 bytes (2 with `half_sums`) x out_channels x patch[lead] x the plane; of a network whose last layer was put off
    its features instead, and the logits of a few planes. tick: told how many windows were computed. skip: windows that
    are left out.
    """
    shape = tuple(image.shape[1:])
    lead = cut.lead(shape)
    image = _padded(image, cut)
    below = cut.below(shape)
    inside = [slice(b, b + n) for b, n in zip(below, shape)]
    head = put_off(run)
    rows = _Rows(run, image, cut, head.features if head else out_channels, lead, skip)
    for start, stop, planes in rows.walk(tick):
        low, high = max(start, inside[lead].start), min(stop, inside[lead].stop)
        step = HEAD_PLANES if head else max(1, high - low)
        for first in range(low, high, step):
            last = min(first + step, high)
            place = [slice(None), *inside]
            place[lead + 1] = slice(first - start, last - start)
            some = planes[tuple(place)]
            logits = some if head is None else _completed(some, head, lead, skip)
            yield Slab(lead, first - below[lead], last - below[lead], logits)


def _completed(planes: Tensor, head: Head, lead: int, skip: Skip) -> Tensor:
    """Logits (K, *S) of blended features (F, *S), behind which the mark of windows left out may stand."""
    moved = planes.movedim(lead + 1, 1)
    logits = head(moved[: head.features])
    if len(moved) > head.features:
        if skip.background:
            logits[0] += moved[-1]
        else:
            logits -= moved[-1]
    return logits.movedim(1, lead + 1)


def _padded(image: Tensor, cut: Cut) -> Tensor:
    from torch.nn.functional import pad

    shape = tuple(image.shape[1:])
    if len(shape) != len(cut.patch):
        raise UserError(f"windows of {cut.patch} do not fit an image of shape {shape}")
    missing = [m - n for m, n in zip(cut.padded(shape), shape)]
    if not any(missing):
        return image
    room = [n for b, m in zip(reversed(cut.below(shape)), reversed(missing)) for n in (b, m - b)]
    return pad(image, room)


class _Rows:
    """Rows of windows along one axis, and the sums of the planes that are still open."""

    def __init__(
        self, run: Runner, image: Tensor, cut: Cut, out_channels: int, lead: int, skip: Skip
    ) -> None:
        import torch

        self.run, self.image, self.cut, self.lead, self.skip = run, image, cut, lead, skip
        self.out_channels = out_channels
        self.shape = tuple(image.shape[1:])
        self.starts = cut.starts_on(self.shape)
        device = getattr(run, "blend_on", "cpu")
        self.shares = [
            [torch.from_numpy(share).to(device) for share in shares(n, p, s, axis in cut.turned)]
            for axis, (n, p, s) in enumerate(zip(self.shape, cut.patch, self.starts))
        ]
        room = list(self.shape)
        room[lead] = cut.patch[lead]
        kind = torch.float16 if cut.half_sums else torch.float32
        # Features have no channel of their own for background, so windows left out are marked in one more.
        self.marked = bool(put_off(run) and skip.windows)
        self.sums = torch.zeros((out_channels + self.marked, *room), dtype=kind, device=device)

    def walk(self, tick: Callable[[int], None] | None) -> Iterator[tuple[int, int, Tensor]]:
        """(start, stop, logits) of the planes that each row of windows makes final."""
        places = self.starts[self.lead]
        for row, start in enumerate(places):
            windows = list(self._row(row))
            air = [window for window in windows if window in self.skip.windows]
            for window in air:
                self._leave_out(window)
            if air and tick is not None:
                tick(len(air))
            wanted = (window for window in windows if window not in self.skip.windows)
            for batch in _batches(wanted, self.cut.batch_size):
                self._add(batch)
                if tick is not None:
                    tick(len(batch))
            stop = places[row + 1] if row + 1 < len(places) else self.shape[self.lead]
            yield start, stop, self.sums.narrow(self.lead + 1, 0, stop - start)
            if row + 1 < len(places):
                self._forget(stop - start)

    def _row(self, row: int) -> Iterator[tuple[int, ...]]:
        """Indices into `starts` of the windows of one row."""
        ranges = [[row] if axis == self.lead else range(len(s)) for axis, s in enumerate(self.starts)]
        return product(*ranges)

    def _leave_out(self, window: tuple[int, ...]) -> None:
        """Makes the voxels of a window background, whatever its neighbours will say of them."""
        corner = [self.starts[axis][i] for axis, i in enumerate(window)]
        corner[self.lead] = 0
        place = tuple(slice(c, c + p) for c, p in zip(corner, self.cut.patch))
        if self.marked or self.skip.background:
            self.sums[-1 if self.marked else 0][place] += AIR_LOGIT
            return
        for total in self.sums:
            total[place] -= AIR_LOGIT

    def _add(self, batch: Sequence[tuple[int, ...]]) -> None:
        import torch

        corners = [[self.starts[a][i] for a, i in enumerate(window)] for window in batch]
        stack = torch.stack([
            self.image[(slice(None), *(slice(c, c + p) for c, p in zip(corner, self.cut.patch)))]
            for corner in corners
        ])  # fmt: skip
        logits = self.run(stack)
        if tuple(logits.shape[1:]) != (self.out_channels, *self.cut.patch):
            raise UserError(
                f"the network answered {tuple(stack.shape[1:])} with {tuple(logits.shape[1:])}, expected "
                f"{(self.out_channels, *self.cut.patch)}",
                hint="the model's plan and its network do not belong together",
            )
        for window, corner, answer in zip(batch, corners, logits):
            corner[self.lead] = 0
            place = tuple(slice(c, c + p) for c, p in zip(corner, self.cut.patch))
            weights = self._weights(window)
            # Channel by channel: half precision then never exists in float32 as a whole.
            for total, channel in zip(self.sums, answer):
                self._blend(total[place], channel.to(total.device).float(), weights)

    def _blend(self, total: Tensor, channel: Tensor, weights: Tensor) -> None:
        if self.cut.half_sums:
            total.copy_(total.float().addcmul_(channel, weights))
        else:
            total.addcmul_(channel, weights)

    def _weights(self, window: tuple[int, ...]) -> Tensor:
        weights = self.shares[0][window[0]]
        for axis, index in enumerate(window[1:], start=1):
            weights = weights[..., None] * self.shares[axis][index]
        return weights

    def _forget(self, planes: int) -> None:
        """Drops the first planes, moves the rest to the front and clears what is new."""
        axis, size = self.lead, self.cut.patch[self.lead]
        for channel in self.sums:
            channel.narrow(axis, 0, size - planes).copy_(channel.narrow(axis, planes, size - planes).clone())
            channel.narrow(axis, size - planes, planes).zero_()


def _batches(windows: Iterator[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    batch: list[tuple[int, ...]] = []
    for window in windows:
        batch.append(window)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
