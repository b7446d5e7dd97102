"""The mean of several networks' probabilities, slab by slab, inside the same memory plan as one network.

Averaging logits needs nothing of this: it is done window by window (`engines/several.py`). Probabilities are no linear
function of logits, so every member's logits are blended in an accumulator of their own, all members walk the case in
step, and only finished slabs are turned into probabilities and averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from medseg.predict.windows import NOTHING_SKIPPED, Cut, Skip, Slab, stream_logits

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.predict.engines.several import Several

LEAST = 1e-7
"""Probabilities are kept this far from 0 and 1, so that their logarithms are finite."""


def stream_mean_chances(
    runs: Sequence[Any] | Several,
    image: Tensor,
    cut: Cut,
    out_channels: int,
    overlapping: bool,
    tick: Callable[[int], None] | None = None,
    skip: Skip = NOTHING_SKIPPED,
) -> Iterator[Slab]:
    """Yields slabs like `stream_logits`: numbers whose softmax (sigmoid where classes overlap) is the mean of the members'.

    Held at any time: `len(runs)` + 1 times what one network needs for its open planes. tick: as in `stream_logits`,
    told for the first member. skip: windows that are left out. runs: the members' engines, or the `Several` of them,
    whose `watch` is then told how far they differ.
    """
    watch = getattr(runs, "watch", None)
    runs = getattr(runs, "runs", runs)
    streams = [
        stream_logits(run, image, cut, out_channels, tick if number == 0 else None, skip)
        for number, run in enumerate(runs)
    ]
    for slabs in zip(*streams, strict=True):
        first = slabs[0]
        total = _chances(first.logits, overlapping)
        for slab in slabs[1:]:
            total += _chances(slab.logits, overlapping)
        mean = (total / len(slabs)).clamp_(LEAST, 1 - LEAST)
        mean = mean.logit_() if overlapping else mean.log_()
        if watch is not None:
            watch.take([watch.labels(slab.logits) for slab in slabs], watch.labels(mean))
        yield Slab(first.lead, first.start, first.stop, mean)


def _chances(logits: Tensor, overlapping: bool) -> Tensor:
    return logits.float().sigmoid() if overlapping else logits.float().softmax(dim=0)
