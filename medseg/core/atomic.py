"""Files that are whole or absent."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.core.errors import UserError


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
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=ending, dir=target.parent)
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


def write_text(target: Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    with atomic_path(target) as part:
        part.write_text(text, encoding="utf-8")


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
    if err.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            "the disk is full", str(target.parent), "free some space and start again with --resume"
        )
    if err.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(
            "no permission to write here", str(target.parent), "choose another folder with --out"
        )
    return UserError(f"cannot be written ({err.strerror or err})", str(target))


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
