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

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Iterates make(first), make(first + 1), ... without end, `ahead` of them ready.

    `waited` counts the seconds the caller stood still. An error in the thread is raised where the item would have
    come. Use it as a context manager, so that the thread ends.
    """

    def __init__(self, make: Callable[[int], T], first: int, ahead: int = 2) -> None:
        self.waited = 0.0
        self._make, self._next = make, first
        self._ready: queue.Queue[T | BaseException] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="medseg-batches")

    def __enter__(self) -> Prefetch[T]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        while True:
            start = time.monotonic()
            item = self._ready.get()
            self.waited += time.monotonic() - start
            if isinstance(item, BaseException):
                raise item
            yield item

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
