"""What predictions cost: seconds and memory, over the cases that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BYTES_PER_GB = 1e9


@dataclass(frozen=True)
class Cost:
    """Seconds a case (mean and largest) and the largest memory of any case in GB; None where no case says."""

    seconds_mean: float | None
    seconds_max: float | None
    peak_ram_gb: float | None
    n: int


def cost_of(seconds: Sequence[float | None], peak_bytes: Sequence[float | None]) -> Cost:
    """Summarise what each case took.

    >>> cost_of([2.0, 4.0, None], [1.5e9, None, 3e9])
    Cost(seconds_mean=3.0, seconds_max=4.0, peak_ram_gb=3.0, n=2)
    """
    times = [s for s in seconds if s is not None]
    peaks = [b for b in peak_bytes if b is not None]
    return Cost(
        seconds_mean=sum(times) / len(times) if times else None,
        seconds_max=max(times) if times else None,
        peak_ram_gb=max(peaks) / BYTES_PER_GB if peaks else None,
        n=len(times),
    )
