"""Batches are read by one thread ahead of the network, and the time the network waits for them is measured.

A thread and no processes: nothing is copied between address spaces, nothing depends on shared memory, and a script
that calls medseg is never started again.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from medseg.core.progress import duration, say

POLL_SECONDS = 0.5
"""How often a caller that waits looks whether it was asked to stop."""

STALLED_SECONDS = 10.0
"""A wait longer than this is said, and again after twice the time: a disk or a network does not answer."""

LEAVE_SECONDS = 5.0
"""How long the thread is waited for at the end; one that hangs in a read ends with the process."""

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Iterates make(first), make(first + 1), ... without end, `ahead` of them ready.

    `waited` counts the seconds the caller stood still. An error in the thread is raised where the item would have
    come. Use it as a context manager, so that the thread ends. stop: asked while the caller waits; when it says yes the
    iteration ends. doing: what the thread does, in words, for a wait that takes too long.
    """

    def __init__(
        self,
        make: Callable[[int], T],
        first: int,
        ahead: int = 2,
        *,
        stop: Callable[[], bool] = lambda: False,
        doing: Callable[[], str] = lambda: "reading",
    ) -> None:
        self.waited = 0.0
        self._asked_to_stop, self._doing = stop, doing
        self._make, self._next = make, first
        self._ready: queue.Queue[T | BaseException] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="medseg-batches")

    def __enter__(self) -> Prefetch[T]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(LEAVE_SECONDS)

    def __iter__(self) -> Iterator[T]:
        while True:
            start = time.monotonic()
            found = self._wait(start)
            self.waited += time.monotonic() - start
            if found is None:
                return
            if isinstance(found[0], BaseException):
                raise found[0]
            yield found[0]

    def _wait(self, start: float) -> tuple[T | BaseException] | None:
        """The next item; None when asked to stop before there was one. Says what a long wait waits for."""
        patience = STALLED_SECONDS
        while True:
            try:
                return (self._ready.get(timeout=POLL_SECONDS),)
            except queue.Empty:
                if self._asked_to_stop():
                    return None
            if time.monotonic() - start >= patience:
                say(f"train    no batch for {duration(time.monotonic() - start)}: {self._doing()}")
                patience *= 2

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                item: T | BaseException = self._make(self._next)
            except BaseException as err:  # handed over: the loop raises it
                item = err
            self._next += 1
            while not self._stop.is_set():
                try:
                    self._ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item, BaseException):
                return
