"""Compressed pixels of foreign files: unpacked by another process, so that a crash there is a sentence here."""

from __future__ import annotations

import atexit
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError

PROGRAM = Path(__file__).with_name("decoder.py")
SECONDS_ALLOWED = 300.0
"""How long a decoder may take for one frame before it is taken for hung."""

OWN_RAM_BYTES = 2 * 2**30
"""Address space of the interpreter and its libraries, beside what the frames need."""

PACKAGES = {
    "1.2.840.10008.1.2.4.50": "python-gdcm", "1.2.840.10008.1.2.4.51": "python-gdcm",
    "1.2.840.10008.1.2.4.57": "python-gdcm", "1.2.840.10008.1.2.4.70": "python-gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls", "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg-openjpeg", "1.2.840.10008.1.2.4.91": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg-openjpeg", "1.2.840.10008.1.2.4.202": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg-openjpeg",
}  # fmt: skip
"""Which package decodes a transfer syntax."""

UNREADABLE = frozenset(("NotImplementedError", "RuntimeError", "AttributeError"))
"""What the library raises where no decoder takes the pixels."""


class Decoder:
    """One decoding process, which runs `program`."""

    def __init__(self, program: Path) -> None:
        self.owner = os.getpid()
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def ask(self, path: Path, ram_bytes: int, **more: bool) -> None:
        """Asks for a file's pixels; `more` goes to the program as it is."""
        assert self.process.stdin is not None
        job = {"path": str(path.absolute()), "ram_bytes": ram_bytes, **more}
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """The next message; {} when the process has died or had to be stopped."""
        assert self.process.stdout is not None
        watch = threading.Timer(SECONDS_ALLOWED, self.process.kill)
        watch.daemon = True
        watch.start()
        try:
            line = self.process.stdout.readline()
            return json.loads(line) if line.endswith(b"\n") else {}
        finally:
            watch.cancel()

    def frame(self, message: dict[str, Any]) -> npt.NDArray[Any] | None:
        """The frame that a message announces; None when the process died over it."""
        assert self.process.stdout is not None
        data = bytearray(_size_of(message))
        if self.process.stdout.readinto(memoryview(data)) != len(data):  # type: ignore[attr-defined]
            return None
        return np.frombuffer(data, message["dtype"]).reshape(message["shape"])

    def end(self) -> int:
        """Kills the process; its exit code, negative for a signal."""
        self.process.kill()
        code = self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        return code


def _size_of(message: dict[str, Any]) -> int:
    return math.prod(message["shape"]) * np.dtype(message["dtype"]).itemsize


_idle: queue.SimpleQueue[Decoder] = queue.SimpleQueue()


def decoded_frames(
    path: Path, syntax: str, frame_bytes: int, where: str, frames: int = 1
) -> Iterator[npt.NDArray[Any]]:
    """The stored pixels of a compressed file, frame by frame.

    syntax: UID of the transfer syntax. frame_bytes, frames: what the header claims; more memory is not taken.
    where: what a message calls the file. Raises UserError that names the syntax and the missing package, or the
    signal that the decoder died of.
    """
    worker = borrow(_idle, PROGRAM)
    whole = False
    try:
        # The library holds the file, one frame unpacked and a copy or two of it.
        worker.ask(path, OWN_RAM_BYTES + 8 * frame_bytes + 2 * path.stat().st_size)
        while not (message := worker.answer()).get("end"):
            if "error" in message:
                whole = True
                raise decoding_failed(message["error"], syntax, where)
            frames -= 1
            if message and (frames < 0 or _size_of(message) > frame_bytes):
                raise UserError(
                    "is damaged: it unpacks to more than its header says", where, "copy the files again"
                )
            frame = worker.frame(message) if message else None
            if frame is None:
                raise _died(worker.end(), where)
            yield frame
        whole = True
    except (BrokenPipeError, json.JSONDecodeError) as err:
        raise _died(worker.end(), where) from err
    finally:
        if whole:
            _idle.put(worker)
        else:
            worker.end()


def borrow(idle: queue.SimpleQueue[Decoder], program: Path) -> Decoder:
    """An idle process of this one, else a new one; those of a process that we were forked from are not ours.

    Raises UserError where the system starts no further process.
    """
    while True:
        try:
            worker = idle.get_nowait()
        except queue.Empty:
            return _started(program)
        if worker.owner == os.getpid() and worker.process.poll() is None:
            return worker


def _started(program: Path) -> Decoder:
    try:
        return Decoder(program)
    except OSError as err:
        raise UserError(
            f"the program that unpacks pixels cannot be started ({err.strerror or err})",
            Path(sys.executable).name,
            "the image may be sound: look at memory, limits on processes, and the rights of this Python",
        ) from err


def end_all(idle: queue.SimpleQueue[Decoder]) -> None:
    """Ends the processes that wait."""
    while True:
        try:
            worker = idle.get_nowait()
        except queue.Empty:
            return
        if worker.owner == os.getpid():
            worker.end()


@atexit.register
def _end_all() -> None:
    end_all(_idle)


def decoding_failed(kind: str, syntax: str, where: str) -> UserError:
    """The sentence for pixels that were not decoded. kind: name of the exception. syntax: UID, or empty."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    name = UID(syntax).name
    try:
        here = bool(get_decoder(UID(syntax)).is_available)
    except NotImplementedError:
        here = False
    if kind == "MemoryError":
        return UserError(
            f"unpacks to more than its header says ({name})", where, "copy or export the file again"
        )
    if kind not in UNREADABLE:
        return UserError(f"is damaged: its pixels ({name}) cannot be decoded", where, "copy the files again")
    if not here and syntax in PACKAGES:
        hint = f"install {PACKAGES[syntax]}, or export the series uncompressed"
    else:
        hint = "they are damaged, or of a kind that no decoder here reads; export the series uncompressed"
    return UserError(f"pixels in the transfer syntax {name} cannot be decoded", where, hint)


def last_words(code: int) -> str:
    """How a process ended: "signal SIGSEGV", "exit code 7"."""
    try:
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except ValueError:
        return f"exit code {code}"


def _died(code: int, where: str) -> UserError:
    """What a person is told when the decoder is gone."""
    return UserError(
        f"the decoder of its pixels died of it ({last_words(code)})",
        where,
        "the file is damaged; copy or export it again",
    )
