"""Decodes the compressed pixels of one file after the other in a process of its own, which may die of a bad file.

Run as a program by `decode`: it knows nothing of this package, so that it starts quickly and needs no path to it.
Asked: one line of JSON, {"path": name, "ram_bytes": most to take}. Answered: for every frame one line of JSON,
{"shape", "dtype"}, and the bytes; at the end {"end": true}, or {"error": kind of exception}.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import IO, Any


def name_syntax(dataset: Any) -> None:
    """A file without meta group was read as implicit little endian: the decoder must know that."""
    from pydicom.uid import UID

    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = UID(
            "1.2.840.10008.1.2" if implicit else ("1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2")
        )


def main(asked: IO[bytes], answer: IO[bytes]) -> None:
    """Answers until nothing more is asked."""
    for line in iter(asked.readline, b""):
        job = json.loads(line)
        _limit(int(job["ram_bytes"]))
        try:
            _send_frames(job["path"], answer)
            _send(answer, {"end": True})
        except Exception as err:  # decoders meet damaged bytes with errors of many kinds
            _send(answer, {"error": type(err).__name__})


def _send_frames(path: str, answer: IO[bytes]) -> None:
    from pydicom import dcmread
    from pydicom.pixels.utils import iter_pixels

    dataset = dcmread(path, force=True)
    name_syntax(dataset)
    for frame in iter_pixels(dataset):
        _send(answer, {"shape": frame.shape, "dtype": frame.dtype.str})
        answer.write(frame.tobytes())


def _send(answer: IO[bytes], message: dict[str, Any]) -> None:
    answer.write(json.dumps(message).encode() + b"\n")
    answer.flush()


def _limit(ram_bytes: int) -> None:
    """Keeps a file that unpacks without end from taking the machine's memory; where the system can."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        most = ram_bytes if hard == resource.RLIM_INFINITY else min(ram_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
