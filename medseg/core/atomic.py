"""Files that are whole or absent."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.core.errors import UserError

PART = ".part-"
"""How the names of files begin that are not finished."""

AT_WORK = "at-work"
"""How a mark ends that a process leaves where it works (medseg.core.at_work): nothing in it was to be finished."""

_NAMED = re.compile(rf"{re.escape(PART)}([0-9a-f]{{8}})-(\d+)-")

FOREIGN_PART_HOURS = 48.0
"""An unfinished file of another machine that nobody has touched for so long has no writer any more."""


@contextmanager
def atomic_path(target: Path, suffix: str | None = None, flush: bool = True) -> Iterator[Path]:
    """Yields a temporary name beside `target`; on success it is flushed and renamed, on failure removed.

    `suffix` is the ending the temporary name gets (writers choose a format by it); default: that of the target.
    flush=False leaves it to the system when the bytes reach the disk: for many small files that can be made again.
    Raises UserError in words when the disk is full or may not be written.
    """
    ending = "".join(target.suffixes[-2:]) if suffix is None else suffix
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=part_prefix(), suffix=ending, dir=target.parent)
        os.close(handle)
    except OSError as err:
        raise writing_failed(err, target) from err
    part = Path(name)
    try:
        yield part
        if flush:
            _flush(part)
        os.chmod(part, 0o666 & ~_umask())
        os.replace(part, target)
    except OSError as err:
        raise writing_failed(err, target) from err
    finally:
        part.unlink(missing_ok=True)


def part_prefix() -> str:
    """The beginning of an unfinished file's name: machine and process that write it."""
    return f"{PART}{_machine()}-{os.getpid()}-"


def remove_leftovers(folder: Path) -> int:
    """Removes what killed processes left unfinished below `folder`, and their marks; returns how many files and folders.

    Those of processes that still run stay: several jobs may write into one folder.
    """
    count = 0
    for path in sorted(folder.rglob(f"{PART}*")):
        if path.is_symlink() or not path.exists() or not _has_no_writer(path):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        count += not path.name.endswith(AT_WORK)
    return count


def _has_no_writer(part: Path) -> bool:
    if is_of_this_machine(part):
        return not runs_still(part)
    try:
        return time.time() - part.stat().st_mtime > FOREIGN_PART_HOURS * 3600
    except OSError:
        return False  # it was finished, or taken away by another job, just now


def is_of_this_machine(part: Path) -> bool:
    """Whether a file with `part_prefix` in its name was begun on this machine."""
    return (named := _NAMED.match(part.name)) is not None and named[1] == _machine()


def runs_still(part: Path) -> bool:
    """Whether the process that began a file of this machine still runs; also true where the file is gone by now."""
    named = _NAMED.match(part.name)
    try:
        touched = part.stat().st_mtime
    except OSError:
        return True  # it was finished, or taken away by another job, just now
    return named is not None and _runs_since(int(named[2]), touched)


def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _runs_since(pid: int, moment: float) -> bool:
    """Whether the process that had this number at `moment` still runs; numbers are given away again."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.create_time() <= moment + 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def write_text(target: Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all; bytes of file names that are no UTF-8 are spelled out."""
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(target: Path, value: Any) -> None:
    """Writes JSON, whole or not at all. NaN and infinity are refused: absent is null."""
    write_text(target, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(source: Path) -> Any:
    """Reads JSON; raises UserError when the file is absent or damaged."""
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise UserError("no such file", str(source)) from err
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise UserError(
            f"is not valid JSON ({err})", str(source), "the file is damaged; make it again"
        ) from err


def writing_failed(err: OSError, target: Path) -> UserError:
    """The sentence for a write that the system refused."""
    if is_full(err):
        return UserError(
            "the disk is full",
            str(target.parent),
            "free some space and give the same command again (`medseg run`: with --resume)",
        )
    if err.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(
            "no permission to write here", str(target.parent), "choose another folder with --out"
        )
    if err.errno in (errno.EEXIST, errno.ENOTDIR):
        place = next((str(p) for p in (target, *target.parents) if p.is_file()), str(target))
        return UserError("a file stands where a folder has to be", place, "choose another folder with --out")
    return UserError(f"cannot be written ({err.strerror or err})", str(target))


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """A write to an open file fails without its name when the disk is full; the error then names `folder`."""
    try:
        yield
    except OSError as err:
        if err.filename is not None or not is_full(err):
            raise
        raise writing_failed(err, folder / "a file") from err


def is_full(err: BaseException) -> bool:
    """Whether the disk is full or a quota is used up, as the system or SQLite says it."""
    number = err.errno if isinstance(err, OSError) else None
    return number in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in str(err)


def _flush(path: Path) -> None:
    if path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
