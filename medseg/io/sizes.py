"""Sizes that a header claims, compared with the bytes that are there, before anything is allocated."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Protocol

from medseg.core.errors import UserError
from medseg.core.machine import ram_available_bytes

MOST_A_GZIP_EXPANDS = 1100
"""Deflate cannot shrink by more than about 1032 to 1."""

TRAILING_BYTES_ALLOWED = 2**24


class Readable(Protocol):
    """Anything that gives bytes."""

    def read(self, size: int, /) -> bytes: ...


def in_words(size: float) -> str:
    """Bytes for people: `2.1 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def voxel_bytes(shape: Sequence[int], item_bytes: int) -> int:
    """Bytes that an array of `shape` takes, without overflow."""
    return math.prod(int(n) for n in shape) * item_bytes


def refuse_oversize(claimed: int, present: int, where: str, expands: float = 1.0) -> None:
    """Raises UserError where the header claims more than the file can hold or the memory can take.

    claimed: bytes of voxels the header speaks of. present: bytes of the file. expands: the most that the file's
    compression can expand by.
    """
    if claimed > present * expands:
        raise UserError(
            f"is damaged: the header claims {in_words(claimed)} of voxels, the file has {in_words(present)}",
            where,
            "copy or export the file again",
        )
    free = ram_available_bytes()
    if claimed > free:
        raise UserError(
            f"needs {in_words(claimed)} of memory to read, {in_words(free)} are free",
            where,
            "use a machine with more memory, or crop the image first",
        )


def inflate(stream: Readable, size: int, where: str) -> bytes:
    """Reads `size` bytes from a decompressing stream and runs it to its end so that its checksum is tested.

    Raises UserError for a stream that is cut, damaged, too short or very much too long.
    """
    try:
        data = stream.read(size)
        extra = 0
        while extra <= TRAILING_BYTES_ALLOWED and (more := stream.read(2**20)):
            extra += len(more)
    except (EOFError, OSError, zlib.error) as err:
        raise UserError(
            f"is damaged: its compressed data cannot be unpacked ({err})",
            where,
            "copy or export the file again",
        ) from err
    if len(data) < size:
        raise UserError(
            f"is damaged: {in_words(size - len(data))} of voxels are missing ({in_words(size)} expected)",
            where,
            "copy or export the file again",
        )
    if extra > TRAILING_BYTES_ALLOWED:
        raise UserError(
            f"holds far more data than its header speaks of ({in_words(size)})",
            where,
            "the file is damaged or not what it seems; export it again",
        )
    return data
