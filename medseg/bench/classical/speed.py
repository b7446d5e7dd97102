"""How long one call takes, what it adds to the memory, and what wrapping a library's call costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from medseg.bench.classical.images import Sample, samples
from medseg.bench.classical.measure import DIGITS, Facts, runner
from medseg.bench.classical.peers import PEERS
from medseg.bench.classical.recipe import ImageSet
from medseg.core.errors import UserError
from medseg.core.machine import peak_ram_bytes

REPEAT_BELOW_SECONDS = 4.0
"""A method that is quicker is timed three times and the best is taken."""

TURN_SECONDS = 0.1
"""Quicker calls are repeated until a turn lasts so long: the clock of processor time ticks on some machines."""

PAIRS, PAIRS_SECONDS = 41, 12.0
"""Ours and the library's call take turns so often, or until they have taken so much processor time (twice at least)."""


def speed(name: str, images: ImageSet) -> Facts:
    """Processor seconds of one call, what it adds to the memory, and the library's own call where there is one."""
    import psutil

    sample = next(samples(images, None))
    settings = images.settings_of(name)[0]
    run = runner(name, images)
    with suppress(UserError):
        # What is imported at the first call is not the method's; the piece may not suit it.
        run(cropped(sample, 40), settings)
    before = psutil.Process().memory_info().rss
    seconds = timed(lambda: run(sample, settings))
    facts = {
        "images": 1,
        "shape": list(sample.image.shape),
        "arguments": settings,
        "cpu_seconds": round(seconds, DIGITS),
        "added_ram_bytes": max(0, peak_ram_bytes() - before),
        "peak_ram_bytes": peak_ram_bytes(),
    }
    return {**facts, **beside_library(name, images, sample, run)}


def beside_library(name: str, images: ImageSet, sample: Sample, run: Callable[..., Any]) -> Facts:
    """Our call and the library's for the same work, in turns; empty where no single call is wrapped."""
    peer = PEERS.get(name)
    if peer is None or images.dims not in peer.dims:
        return {}
    small = cropped(sample, 40)
    with suppress(RuntimeError, ValueError):
        peer.call(small.image, small.spacing_mm)
    try:
        ours, theirs = in_turns(
            lambda: run(sample, {**images.settings_of(name)[0], **peer.arguments}),
            lambda: peer.call(sample.image, sample.spacing_mm),
        )
    except (RuntimeError, ValueError):  # what the library cannot do with this image has no seconds
        return {}
    return {
        "library": peer.library,
        "same_work": dict(peer.arguments),
        "own": peer.own,
        "same_work_cpu_seconds": round(median(ours), DIGITS + 1),
        "library_cpu_seconds": round(median(theirs), DIGITS + 1),
        "ratio": round(median(a / b for a, b in zip(ours, theirs, strict=True) if b), DIGITS),
        "turns": len(ours),
    }


def in_turns(ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[list[float], list[float]]:
    """Processor seconds of two calls that take turns, so that whatever else goes on meets both alike.

    The one that begins changes from turn to turn.
    """
    spent: tuple[list[float], list[float]] = ([], [])
    times = max(repeats(ours), repeats(theirs))
    for turn in range(PAIRS):
        for which in (0, 1) if turn % 2 else (1, 0):
            spent[which].append(seconds_of((ours, theirs)[which], times))
        if turn and sum(spent[0]) + sum(spent[1]) > PAIRS_SECONDS:
            break
    return spent


def cropped(sample: Sample, side: int) -> Sample:
    """The middle of a sample, with its truth."""
    box = tuple(slice(max(0, n // 4), max(0, n // 4) + side) for n in sample.image.shape[1:])
    truth = np.zeros(sample.image[0][box].shape, bool)
    truth[tuple(slice(n // 3, 2 * n // 3) for n in truth.shape)] = True
    return replace(sample, image=sample.image[:, *box], truth=truth)


def timed(call: Callable[[], Any]) -> float:
    """Processor seconds of a call; the best of three where it is quick."""
    spent = [seconds_of(call)]
    times = repeats(call) if spent[0] < TURN_SECONDS else 1
    while len(spent) < 4 and spent[0] <= REPEAT_BELOW_SECONDS:
        spent.append(seconds_of(call, times))
    return min(spent[1:] or spent)


def repeats(call: Callable[[], Any]) -> int:
    """How often a call fits into a turn, by the wall clock; at least once."""
    start = time.perf_counter()
    call()
    return max(1, round(TURN_SECONDS / max(time.perf_counter() - start, 1e-5)))


def seconds_of(call: Callable[[], Any], times: int = 1) -> float:
    """Processor seconds of one call, the mean of so many."""
    start = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - start) / times
