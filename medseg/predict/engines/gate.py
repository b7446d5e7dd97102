"""What an engine is measured by: whether its labels are float32's, and how long a window takes it.

A window takes seconds, on a loaded machine minutes, so that none is computed twice: float32's answer is kept as labels,
the window that an engine is compared on is the one that warms it up, and an engine that is clearly slower than the
fastest one is timed once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from medseg.predict.engines.several import engine_of
from medseg.predict.head import put_off
from medseg.predict.planes import winners

if TYPE_CHECKING:
    from torch import Tensor, nn

    Run = Callable[[Tensor], Tensor]

PLANES = 16
"""Planes of a window whose labels are compared at once."""

CLEARLY = 1.5
"""An engine that needs this many times the fastest one's seconds for a window is not timed again."""


SAMPLES = 3
"""Windows on which int8 ranges are measured, and on which it has to pass."""


class Verdict(NamedTuple):
    """dice: the smallest of a window, against float32. seconds: of the last window; of the only one, with all that an
    engine sets up when it is first used."""

    dice: float
    seconds: float


class Gate:
    """Compares engines with the network in float32 on windows `samples` (N, C, *S).

    background: whether the first channel is no class; overlapping: whether every channel is a region of its own.
    """

    def __init__(self, net: nn.Module, samples: Tensor, background: bool, overlapping: bool) -> None:
        self.net, self.samples = net, samples
        self.overlapping, self.first = overlapping, 1 if overlapping else int(background)

    @cached_property
    def reference(self) -> tuple[list[Tensor], float]:
        """Float32's labels of every sample, uint8 (*S), or booleans (K, *S) where classes overlap; and the seconds that
        the last one took."""
        labels, start = [], 0.0
        for sample in self.samples:
            start = time.perf_counter()
            labels.append(self._labels(engine_of(self.net), sample))
        return labels, time.perf_counter() - start

    def verdict(self, run: Run) -> Verdict:
        """How well and how fast an engine answers; one window after the other, so that one answer exists at a time."""
        dice = []
        for sample, wanted in zip(self.samples, self.reference[0]):
            start = time.perf_counter()
            found = self._labels(run, sample)
            seconds = time.perf_counter() - start
            dice.append(self._dice(found, wanted))
        return Verdict(min(dice), round(seconds, 5))

    def _labels(self, run: Run, sample: Tensor) -> Tensor:
        """Of one window (C, *S), a few planes at a time."""
        import torch

        answer, head = run(sample[None])[0], put_off(self.net)
        parts = []
        for planes in answer.split(PLANES, 1):
            logits = planes if head is None else head(planes)
            parts.append(logits > 0 if self.overlapping else winners(logits))
        return torch.cat(parts, dim=1 if self.overlapping else 0)

    def _dice(self, found: Tensor, wanted: Tensor) -> float:
        """Of all classes together; 1 where both are empty."""
        both = int(((found == wanted) & (wanted >= self.first)).sum())
        sizes = int((found >= self.first).sum() + (wanted >= self.first).sum())
        return 2 * both / sizes if sizes else 1.0


def seconds_of(run: Run, samples: Tensor, fastest: float = float("inf")) -> float:
    """Wall seconds of a window of an engine that is warm: the better of two, or the first where it is clearly slower
    than `fastest`."""
    times: list[float] = []
    while not times or (len(times) < 2 and times[0] < CLEARLY * fastest):
        start = time.perf_counter()
        run(samples[:1])
        times.append(time.perf_counter() - start)
    return round(min(times), 5)


def samples_of(image: Tensor, patch: Sequence[int], precision: str) -> Tensor:
    """Windows (N, C, *patch) of an image (C, *S): the middle one, for int8 others spread along the longest axis too.

    Images smaller than a window are padded with 0.
    """
    import torch
    from torch.nn.functional import pad

    shape = image.shape[1:]
    longest = max(range(len(shape)), key=lambda axis: shape[axis] / patch[axis])
    found = []
    for share in (0.5, 0.25, 0.75)[: SAMPLES if precision == "int8" else 1]:
        shares = [share if axis == longest else 0.5 for axis in range(len(shape))]
        starts = [int(max(0, n - p) * s) for n, p, s in zip(shape, patch, shares)]
        window = image[(slice(None), *(slice(s, s + p) for s, p in zip(starts, patch)))]
        missing = [p - n for n, p in zip(window.shape[1:], patch)]
        found.append(pad(window, [n for m in reversed(missing) for n in (0, m)]))
    return torch.stack(found)
