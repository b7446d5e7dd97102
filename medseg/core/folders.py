"""Walking through a folder of somebody's data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from medseg.core.run import holds_results


def walk_data(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Every folder from `root` on: its path, the names of its folders, the names of its files, both sorted.

    Links to folders are followed, as people link the studies of a cohort together instead of copying them; a folder
    that was seen under another name (a loop of links) and what medseg wrote below `root` are passed over. A name that
    the caller takes out of the list of folders is not entered.
    """
    seen: set[str] = set()
    for place, folders, files in os.walk(root, followlinks=True):
        folder, real = Path(place), os.path.realpath(place)
        if real in seen or (folder != root and holds_results(folder)):
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield folder, folders, sorted(files)
