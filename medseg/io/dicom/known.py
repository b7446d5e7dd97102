"""Headers that this process has parsed already: a series is scanned, then read, and read again by the next step."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from medseg.io.dicom.headers import Slice, read_slices

MOST_SLICES = 16384
"""So many pictures' facts are kept, some 2 kB each; those that were asked for longest ago go first."""


class Known:
    """What `read` made of files, for as long as a file's place, size and time of change stay the same."""

    def __init__(self, read: Callable[[Path], list[Slice]], most: int = MOST_SLICES) -> None:
        self.read, self.most, self.count = read, most, 0
        self.kept: OrderedDict[tuple[str, int, int, int], list[Slice]] = OrderedDict()
        self.lock = threading.Lock()

    def __call__(self, path: Path) -> list[Slice]:
        """The pictures of a file; raises what `read` raises, each time anew."""
        try:
            state = path.stat()
        except OSError:
            return self.read(path)  # which says what is wrong with it
        key = (str(path), state.st_ino, state.st_size, state.st_mtime_ns)
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return list(self.kept[key])
        found = self.read(path)
        with self.lock:
            if key not in self.kept:
                self.kept[key] = found
                self.count += len(found)
            while self.count > self.most:
                self.count -= len(self.kept.popitem(last=False)[1])
        return list(found)


slices_of = Known(read_slices)
"""`headers.read_slices`, remembered by this process."""
