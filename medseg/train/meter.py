"""Where the seconds of a training go besides computing: waiting for data, and augmentation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SECONDS_A_LINE = 30.0
"""Epochs shorter than this share a line."""


@dataclass
class Meter:
    """Counts augmentation, and says for each epoch how many percent of it went into waiting and augmenting.

    augmented: seconds since the start of the training. On a GPU it is the time to hand the work over.
    """

    augmented: float = 0.0
    _epoch: int = 0
    _begun: tuple[float, float, float] | None = None

    @contextmanager
    def augmenting(self) -> Iterator[None]:
        """The seconds inside count as augmentation."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.augmented += time.monotonic() - start

    def after_step(self, epoch: float, seconds: float, waited: float) -> str | None:
        """The line of the epochs that have just ended, if it is time for one.

        epoch: how often each case has been seen; seconds, waited: of training and of waiting so far.
        """
        now = (seconds, waited, self.augmented)
        if self._begun is None:
            self._epoch, self._begun = int(epoch), now
            return None
        spent, stood, changed = (new - old for new, old in zip(now, self._begun))
        if int(epoch) <= self._epoch or spent < SECONDS_A_LINE:
            return None
        first, last = self._epoch + 1, int(epoch)
        self._epoch, self._begun = last, now
        which = f"epoch {last}" if first == last else f"epochs {first} to {last}"
        return (
            f"{which}: {100 * stood / spent:.1f} % of {spent:.0f} s waiting for data, "
            f"{100 * changed / spent:.1f} % augmenting"
        )

    def percent(self, seconds: float) -> float:
        """Share of the whole training that went into augmentation."""
        return round(100 * self.augmented / max(seconds, 1e-9), 1)
