"""One process at a time does what several jobs of one run share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg.core.progress import say


@contextmanager
def one_at_a_time(path: Path, what: str) -> Iterator[None]:
    """Holds the lock file `path`; waits, and says so, while another process holds it.

    The system lets go of the lock when a process ends, however it ends. Where the file system or the operating system
    has no such locks nothing is held: jobs are then to be started after the shared steps are done.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        held = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another job that works on {what}")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            held = False
        try:
            yield
        finally:
            if held:
                fcntl.flock(file, fcntl.LOCK_UN)
