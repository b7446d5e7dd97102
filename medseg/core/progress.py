"""Progress for people, on standard error: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_QUIET = False


def be_quiet(quiet: bool = True) -> None:
    """Switches all progress off (library use, tests)."""
    global _QUIET
    _QUIET = quiet


def duration(seconds: float) -> str:
    """`42 s`, `3 min 10 s`, `2 h 05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """`with Progress("predict", total=12) as bar: bar.advance(note="case 3f2a")`.

    The rate is that of the whole step so far, so the ETA settles. On a terminal the line is redrawn; elsewhere a
    line is written at most every ten seconds, so that a log is never silent for longer while work advances.
    """

    def __init__(self, title: str, total: float, unit: str = "cases") -> None:
        self.title, self.total, self.unit = title, max(total, 1e-9), unit
        self.done = 0.0
        self.note = ""
        self._start = time.monotonic()
        self._last = 0.0
        self._tty = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        self._show(force=self._tty)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.done = max(self.done, self.total)
        self._show(force=True, last=True)

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.set(self.done + amount, note)

    def set(self, done: float, note: str = "") -> None:
        """Sets what is done in absolute terms (seconds of a time budget, steps)."""
        self.done, self.note = done, note or self.note
        self._show()

    def line(self) -> str:
        """The text that is shown now."""
        share = min(1.0, self.done / self.total)
        passed = time.monotonic() - self._start
        left = (
            f"ETA {duration(passed / share - passed)}" if 0.01 < share < 1 else ("" if share < 1 else "done")
        )
        bar = "█" * round(share * 20) + "░" * (20 - round(share * 20))
        amount = f"{self.done:.0f}/{self.total:.0f} {self.unit}"
        return "  ".join(
            p for p in (f"{self.title:<8} {bar} {share:4.0%}", amount, duration(passed), left, self.note) if p
        )

    def _show(self, force: bool = False, last: bool = False) -> None:
        now = time.monotonic()
        if _QUIET or (not force and now - self._last < (0.2 if self._tty else 10.0)):
            return
        self._last = now
        if self._tty:
            import shutil

            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r" + self.line()[:width].ljust(width) + ("\n" if last else ""))
        else:
            sys.stderr.write(self.line() + "\n")
        sys.stderr.flush()


def track(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Iterates with a progress bar."""
    with Progress(title, total) as bar:
        for item in items:
            yield item
            bar.advance()


def say(line: str = "") -> None:
    """One line for people, on standard error (standard output belongs to results and --json)."""
    note(line)
    if not _QUIET:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


_LOG: list[Path] = []


def keep_log(path: Path | None) -> None:
    """From now on every line that is said is also appended to `path` (None: no longer)."""
    _LOG.clear()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _LOG.append(path)


def note(line: str) -> None:
    """One line for the log alone. A log that cannot be written, on a full disk say, stops nothing."""
    for path in _LOG:
        with suppress(OSError), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")
