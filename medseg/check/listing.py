"""Whether the data changed: names, sizes and times of files, without opening images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256

from medseg.config import Data
from medseg.core.folders import walk_data
from medseg.data.cohort import data_root, look


def listing_digest(data: Data) -> str:
    """Digest of (path, size, time) of every file that the data section leads to."""
    digest = sha256()
    if data.root is None and data.manifest is None and data.phantom is not None:
        digest.update(data.phantom.model_dump_json().encode())
        return digest.hexdigest()
    for name in _files(data):
        try:
            facts = os.stat(name)
        except OSError:
            digest.update(f"{name}\0absent\n".encode("utf-8", "surrogateescape"))
            continue
        digest.update(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files(data: Data) -> Iterator[str]:
    root = data_root(data)
    if data.manifest is not None:
        yield data.manifest
        yield from sorted(name for row in look(data, root).rows for name in row.files)
    elif root is not None and root.is_dir():
        for folder, _, names in walk_data(root):
            yield from (str(folder / name) for name in names)
    elif root is not None:
        yield str(root)
