"""Files are whole or absent, and the system's refusals become sentences."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from medseg.core import UserError
from medseg.core.atomic import atomic_path, read_json, write_json, write_text, writing_failed


def test_a_failure_in_the_middle_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_text(target, "old")

    def half() -> None:
        with atomic_path(target) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the disk is full") as caught, atomic_path(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "--resume" in caught.value.hint


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    for target in (tmp_path / "out" / "a.json", tmp_path / "out" / "deeper" / "a.json"):
        with pytest.raises(UserError, match="out: a file stands where a folder has to be"):
            write_json(target, {})


def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    err = writing_failed(PermissionError(errno.EACCES, "Permission denied"), tmp_path / "a.txt")
    assert str(tmp_path) in str(err)
    assert "no permission" in str(err)


def test_nan_never_gets_into_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"dice": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_json(tmp_path / "a.json")


def test_names_with_umlauts_and_chinese_work(tmp_path: Path) -> None:
    target = tmp_path / "Müller 肺" / "größe ü.json"
    write_json(target, {"a": 1})
    assert read_json(target) == {"a": 1}


def test_what_a_killed_process_left_is_removed_and_what_others_write_stays(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys
    import time

    from medseg.core.atomic import part_prefix, remove_leftovers

    code = (
        "import os, sys, pathlib\nfrom medseg.core.atomic import atomic_path\n"
        f"target = pathlib.Path({str(tmp_path)!r}) / 'sub' / 'mask.nii.gz'\n"
        "with atomic_path(target) as part:\n    part.write_bytes(b'half')\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    left = list(tmp_path.rglob(".part-*"))
    assert len(left) == 1
    ours = tmp_path / f"{part_prefix()}abc.json"
    elsewhere = tmp_path / ".part-00000000-1-abc.json"
    old = tmp_path / ".part-xyz.json"
    for path in (ours, elsewhere, old):
        path.write_text("half")
    os.utime(old, (time.time() - 72 * 3600,) * 2)
    assert remove_leftovers(tmp_path) == 2
    assert sorted(p.name for p in tmp_path.rglob(".part-*")) == sorted([ours.name, elsewhere.name])


def test_a_number_that_another_process_has_now_does_not_keep_a_file(tmp_path: Path) -> None:
    import os

    from medseg.core.atomic import part_prefix, remove_leftovers

    part = tmp_path / f"{part_prefix()}abc.json"
    part.write_text("half")
    os.utime(part, (1.0, 1.0))
    assert remove_leftovers(tmp_path) == 1


def test_a_folder_that_a_killed_process_left_goes_with_all_in_it_and_that_of_a_running_one_stays(
    tmp_path: Path,
) -> None:
    import os

    from medseg.core.atomic import part_prefix, remove_leftovers

    left, ours = tmp_path / "dicom" / f"{part_prefix()}left", tmp_path / "dicom" / f"{part_prefix()}ours"
    for folder in (left, ours):
        folder.mkdir(parents=True)
        (folder / "0001.dcm").write_bytes(b"half")
    os.utime(left, (1.0, 1.0))  # our number was another process's then
    assert remove_leftovers(tmp_path) == 1
    assert not left.exists()
    assert (ours / "0001.dcm").is_file()


def test_a_full_disk_names_the_folder_where_the_system_names_no_file(tmp_path: Path) -> None:
    import errno

    from medseg.core.atomic import full_disk_named

    with pytest.raises(UserError) as caught, full_disk_named(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (caught.value.what, caught.value.where) == ("the disk is full", str(tmp_path))
    with pytest.raises(OSError, match="Input/output"), full_disk_named(tmp_path):
        raise OSError(errno.EIO, "Input/output error")


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    from medseg.core import progress

    progress.keep_log(tmp_path / "nowhere" / "run.log")
    try:
        progress.note("step done")
    finally:
        progress.keep_log(None)
