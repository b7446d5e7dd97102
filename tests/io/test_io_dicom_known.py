"""Headers are parsed once a process, and anew when a file has changed."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medseg.io.dicom.headers import NotASlice
from medseg.io.dicom.known import Known


def counting(frames: int = 1) -> tuple[list[Path], Any]:
    asked: list[Path] = []

    def read(path: Path) -> list[Any]:
        asked.append(path)
        if path.stat().st_size == 0:
            raise NotASlice("not a DICOM file")
        return [SimpleNamespace(path=path, text=path.read_text())] * frames

    return asked, read


def test_a_file_is_parsed_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    asked, read = counting()
    known, file = Known(read), tmp_path / "a.dcm"
    file.write_text("one")
    assert known(file)[0].text == known(file)[0].text == "one"
    assert len(asked) == 1
    file.write_text("two")  # the same length
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))
    assert known(file)[0].text == "two"
    assert len(asked) == 2


def test_what_a_caller_does_with_the_list_stays_with_him(tmp_path: Path) -> None:
    _, read = counting()
    known, file = Known(read), tmp_path / "a.dcm"
    file.write_text("one")
    known(file).clear()
    known(file).clear()
    assert len(known(file)) == 1


def test_refusals_and_missing_files_are_not_remembered(tmp_path: Path) -> None:
    asked, read = counting()
    known, file = Known(read), tmp_path / "a.dcm"
    with pytest.raises(FileNotFoundError):
        known(file)
    file.write_text("")
    for _ in range(2):
        with pytest.raises(NotASlice):
            known(file)
    assert len(asked) == 3
    file.write_text("one")
    assert len(known(file)) == 1


def test_no_more_pictures_are_kept_than_agreed(tmp_path: Path) -> None:
    asked, read = counting(frames=4)
    known = Known(read, most=8)
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_text(file.name)
        known(file)
    assert known.count == 8
    assert len(known.kept) == 2
    known(files[2]), known(files[1])
    assert len(asked) == 3
    known(files[0])
    assert len(asked) == 4
