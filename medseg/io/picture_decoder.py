"""Decodes pictures, one file after the other, in a process of its own, which may die of a bad file.

Run as a program by `pictures`: it knows nothing of this package, so that it starts quickly and needs no path to it.
Asked: one line of JSON, {"path", "ram_bytes", "whole"}. Answered: one line that describes the pixels, the bytes, and
{"end": true}; or {"error": what was wrong}. whole: by tifffile, all bits of several channels.
"""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import suppress
from typing import IO, Any

ORIENTATION = 0x0112


def main(asked: IO[bytes], answer: IO[bytes]) -> None:
    """Answers until nothing more is asked."""
    warnings.simplefilter("ignore")
    for line in iter(asked.readline, b""):
        job = json.loads(line)
        _limit(int(job["ram_bytes"]))
        try:
            facts, pixels = _whole(job["path"]) if job["whole"] else _picture(job["path"])
            _send(answer, {**facts, "shape": [len(pixels)], "dtype": "|u1"})
            answer.write(pixels)
            _send(answer, {"end": True})
        except Exception as err:  # decoders meet damaged bytes with errors of many kinds
            text = (str(err).splitlines() or [""])[0].replace(job["path"], "it")
            _send(answer, {"error": text or type(err).__name__})


def _picture(path: str) -> tuple[dict[str, Any], bytes]:
    """Mode, size and palette of an upright picture, and its bytes as Pillow packs them."""
    from PIL import Image, ImageOps

    with Image.open(path) as picture:
        turn = picture.getexif().get(ORIENTATION, 1)
        if turn == 1:
            picture.load()
        upright = picture if turn == 1 else ImageOps.exif_transpose(picture)
        palette = upright.getpalette("RGB") if upright.mode in ("P", "PA") else None
        facts = {"mode": upright.mode, "size": list(upright.size), "turned": turn != 1, "palette": palette}
        return facts, upright.tobytes()


def _whole(path: str) -> tuple[dict[str, Any], bytes]:
    """Shape and type of the pixels of a TIFF, and the bytes."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        pages = len(tiff.pages)
        array = tiff.asarray() if pages == 1 else None
    if array is None:
        return {"pages": pages}, b""
    return {"pages": 1, "array": [list(array.shape), array.dtype.str]}, array.tobytes()


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
