"""Pixels of foreign pictures: unpacked by another process, so that a decoder that crashes is a sentence here."""

from __future__ import annotations

import atexit
import json
import queue
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.io.dicom.decode import OWN_RAM_BYTES, Decoder, borrow, end_all, last_words

PROGRAM = Path(__file__).with_name("picture_decoder.py")

_idle: queue.SimpleQueue[Decoder] = queue.SimpleQueue()
atexit.register(end_all, _idle)


def unpacked(
    path: Path, claimed_bytes: int, whole: bool = False
) -> tuple[dict[str, Any], npt.NDArray[np.uint8]]:
    """What the decoder says of a picture, and its bytes.

    claimed_bytes: what the header speaks of; not much more memory is given. whole: as tifffile reads it, all bits of
    several channels. Raises ValueError with what is wrong with the file, and UserError when the decoder died of it.
    """
    worker = borrow(_idle, PROGRAM)
    well = False
    try:
        # The library holds the file, the pixels, and a copy or two while it turns them.
        worker.ask(path, OWN_RAM_BYTES + 6 * claimed_bytes + 2 * path.stat().st_size, whole=whole)
        message = worker.answer()
        if "error" in message:
            well = True
            raise ValueError(message["error"])
        if message and message["shape"][0] > claimed_bytes:
            raise ValueError("it unpacks to more than its header says")
        pixels = worker.frame(message) if message else None
        if pixels is None or not worker.answer().get("end"):
            raise _died(worker, path)
        well = True
        return message, pixels
    except (BrokenPipeError, json.JSONDecodeError) as err:
        raise _died(worker, path) from err
    finally:
        if well:
            _idle.put(worker)
        else:
            worker.end()


def _died(worker: Decoder, path: Path) -> UserError:
    return UserError(
        f"the decoder of its pixels died of it ({last_words(worker.end())})",
        path.name,
        "the file is damaged; copy or export it again",
    )
