"""Compressed pixels are unpacked by another process: it may crash, hang or take too much, and it is said so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.io.dicom import decode
from medseg.io.dicom.read import read_series
from medseg.io.dicom.write_series import write_ct_series

SHAPE = (9, 11, 4)


@pytest.fixture
def packed(tmp_path) -> list[Path]:
    array = np.random.default_rng(0).integers(-1000, 1200, SHAPE).astype(np.int16)
    return write_ct_series(
        array, Geometry(SHAPE, np.diag([-1.0, -1.0, 2.0, 1.0])), tmp_path / "s", compress=True
    )


@pytest.fixture
def fresh():
    """No process of an earlier test is used, and none of this one is left."""
    decode._end_all()
    yield
    decode._end_all()


def program(folder: Path, body: str) -> Path:
    """A decoder that does something else at the given file."""
    path = folder / "program.py"
    path.write_text(
        "import json, os, signal, sys, time\n"
        "for line in iter(sys.stdin.buffer.readline, b''):\n"
        "    job = json.loads(line)\n"
        "    say = lambda m: (sys.stdout.buffer.write(json.dumps(m).encode() + b'\\n'), sys.stdout.buffer.flush())\n"
        f"    {body}\n"
    )
    return path


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"the decoder of its pixels died of it \(signal SIGSEGV\)"),
        ("os._exit(7)", r"died of it \((exit code 7|signal SIGKILL)\)"),
        ("say({'shape': [11, 9], 'dtype': '<u2'}); os.abort()", r"died of it \(signal SIG(ABRT|KILL)\)"),
        ("say({'shape': [90000, 90000], 'dtype': '<u2'})", "unpacks to more than its header says"),
        ("say({'error': 'MemoryError'})", "unpacks to more than its header says"),
        ("say({'error': 'ValueError'})", "is damaged: its pixels .* cannot be decoded"),
        ("say({'end': True})", "is damaged: 0 of 1 pictures are there"),
        ("sys.stdout.buffer.write(b'noise' * 9 + b'\\n'); sys.stdout.buffer.flush()", "died of it"),
    ],
)
def test_a_decoder_that_fails_ends_in_a_sentence_that_names_the_file(
    packed, tmp_path, fresh, monkeypatch, body, message
):
    monkeypatch.setattr(decode, "PROGRAM", program(tmp_path, body))
    with pytest.raises(UserError, match=message) as caught:
        read_series(packed)
    assert "of 4 (instance" in caught.value.where


def test_a_decoder_that_hangs_is_stopped(packed, tmp_path, fresh, monkeypatch):
    monkeypatch.setattr(decode, "PROGRAM", program(tmp_path, "time.sleep(60)"))
    monkeypatch.setattr(decode, "SECONDS_ALLOWED", 0.3)
    with pytest.raises(UserError, match=r"died of it \(signal SIGKILL\)"):
        read_series(packed[:2])


def test_after_a_crash_the_next_file_is_read_by_a_new_process(packed, tmp_path, fresh, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(decode, "PROGRAM", program(tmp_path, "os.kill(os.getpid(), signal.SIGSEGV)"))
        with pytest.raises(UserError, match="SIGSEGV"):
            read_series(packed)
    assert read_series(packed).array.shape == (1, *SHAPE)


def test_one_process_serves_file_after_file(packed, fresh):
    read_series(packed)
    started = decode._idle.qsize()
    read_series(packed)
    assert 1 <= decode._idle.qsize() == started


def test_a_process_inherited_by_a_fork_is_not_used(packed, fresh, monkeypatch):
    read_series(packed)
    ours = decode._idle.qsize()
    assert ours >= 1
    monkeypatch.setattr(os, "getpid", lambda: -5)
    worker = decode.borrow(decode._idle, decode.PROGRAM)
    assert worker.owner == -5
    worker.end()


def test_the_program_needs_nothing_of_this_package(packed):
    job = json.dumps({"path": str(packed[0]), "ram_bytes": 4 * 2**30}).encode() + b"\n"
    answer = subprocess.run(
        [sys.executable, "-I", str(decode.PROGRAM)], input=job, capture_output=True, check=True
    )
    head, _, rest = answer.stdout.partition(b"\n")
    assert json.loads(head) == {"shape": [11, 9], "dtype": "<u2"}
    np.testing.assert_array_equal(
        np.frombuffer(rest[:198], "<u2").reshape(11, 9), pydicom.dcmread(packed[0]).pixel_array
    )
    assert json.loads(rest[198:]) == {"end": True}


@pytest.mark.parametrize("name", ["肺 ä.dcm", "a\nb.dcm"])
def test_names_of_any_kind_reach_the_process(packed, tmp_path, name):
    moved = [Path(shutil.copy(file, tmp_path / f"{n}{name}")) for n, file in enumerate(packed)]
    np.testing.assert_array_equal(read_series(moved).array, read_series(packed).array)


def test_a_syntax_without_decoder_names_the_package_that_has_one(monkeypatch):
    import pydicom.pixels.decoders.base as decoders

    class Nothing:
        is_available = False

    monkeypatch.setattr(decoders, "get_decoder", lambda uid: Nothing)
    error = decode.decoding_failed("RuntimeError", "1.2.840.10008.1.2.4.80", "file 1")
    assert "JPEG-LS Lossless" in error.what
    assert error.hint == "install pyjpegls, or export the series uncompressed"


def test_a_deflated_bomb_is_refused_before_it_is_unpacked(packed, monkeypatch):
    from medseg.io.dicom import headers

    data = pydicom.dcmread(packed[0])
    data.decompress(generate_instance_uid=False)
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    data.PixelData = bytes(3 * 2**20)
    data.save_as(packed[0])
    assert packed[0].stat().st_size < 20_000
    monkeypatch.setattr(headers, "ram_available_bytes", lambda: 4 * 2**20)
    with pytest.raises(UserError, match=r"unpacks to more than 1.05 MB, the file has [\d.]+ kB"):
        read_series([packed[0]])
