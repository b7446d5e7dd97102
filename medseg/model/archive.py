"""Unpacking an archive that somebody sent: every member is looked at before the first one is written."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from stat import S_IFMT, S_ISDIR, S_ISREG
from typing import IO

from medseg.core.errors import UserError

MOST_BYTES = 20 * 2**30
MOST_MEMBERS = 20_000
MOST_RATIO = 200
"""An archive of weights hardly shrinks; one that unpacks to more than this many times its size is a bomb."""

CHUNK = 2**20


@dataclass(frozen=True)
class Member:
    """name: as the archive has it. size: of its content. kind: file, folder, or what else it is."""

    name: str
    size: int
    kind: str


def unpack(archive: Path, target: Path) -> list[Path]:
    """Unpacks a .zip or .tar(.gz, .bz2, .xz) into the folder `target`; returns the files.

    Raises UserError before anything is written when a member is absolute, leads out of the folder, is a link or a
    device, when two have one name, or when members or bytes are too many; and while writing when a member holds more
    than it declares.
    """
    archive, target = Path(archive), Path(target)
    if not archive.is_file():
        raise UserError("no such archive", str(archive))
    opened = _open(archive)
    with opened:
        members = list(_members(opened))
        check_members(members, archive)
        written = []
        for member in members:
            if member.kind == "file":
                written.append(_write(opened, member, target, archive))
    return written


def check_members(members: list[Member], archive: Path) -> None:
    """Raises UserError for the first member that may not be unpacked."""
    where = str(archive)
    hint = "do not use this archive; ask whoever made it for one that holds plain files only"
    if len(members) > MOST_MEMBERS:
        raise UserError(f"holds {len(members)} members, at most {MOST_MEMBERS} are unpacked", where, hint)
    seen: set[str] = set()
    for member in members:
        trouble = _trouble(member)
        key = str(PurePosixPath(member.name)).casefold()
        if not trouble and member.kind == "file" and key in seen:
            trouble = "stands in it twice"
        seen.add(key)
        if trouble:
            raise UserError(f"its member {member.name!r} {trouble}", where, hint)
    total = sum(member.size for member in members)
    if total > MOST_BYTES:
        raise UserError(f"unpacks to {total} bytes, at most {MOST_BYTES} are unpacked", where, hint)
    packed = max(1, archive.stat().st_size)
    if total > max(MOST_RATIO * packed, 10 * CHUNK):
        raise UserError(f"unpacks to {total // packed} times its size: this is a bomb", where, hint)


def _trouble(member: Member) -> str:
    name, windows = PurePosixPath(member.name), PureWindowsPath(member.name)
    if name.is_absolute() or windows.drive or windows.root:
        return "is an absolute path"
    if ".." in name.parts or ".." in windows.parts:
        return "leads out of the folder"
    if not member.name or "\x00" in member.name:
        return "has no proper name"
    if member.kind not in ("file", "folder"):
        return f"is a {member.kind}"
    return ""


def _open(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    try:
        if zipfile.is_zipfile(archive):
            return zipfile.ZipFile(archive)
        return tarfile.open(archive)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as err:
        raise UserError("is no zip or tar archive", str(archive), "give the archive as it was sent") from err


def _members(opened: zipfile.ZipFile | tarfile.TarFile) -> Iterator[Member]:
    if isinstance(opened, zipfile.ZipFile):
        for info in opened.infolist():
            mode = info.external_attr >> 16
            kind = "folder" if info.is_dir() else "file"
            if S_IFMT(mode) and not (S_ISREG(mode) or S_ISDIR(mode)):
                kind = "link" if S_IFMT(mode) == 0o120000 else "device"
            yield Member(info.filename, info.file_size, kind)
        return
    for count, entry in enumerate(opened):
        if count > MOST_MEMBERS:
            yield Member(entry.name, 0, "file")
            return
        kind = "file" if entry.isreg() else "folder" if entry.isdir() else "device"
        yield Member(entry.name, entry.size, "link" if entry.issym() or entry.islnk() else kind)


def _write(opened: zipfile.ZipFile | tarfile.TarFile, member: Member, target: Path, archive: Path) -> Path:
    path = target / PurePosixPath(member.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    source: IO[bytes] | None = (
        opened.open(member.name) if isinstance(opened, zipfile.ZipFile) else opened.extractfile(member.name)
    )
    assert source is not None
    left = member.size
    with source, path.open("xb") as file:
        while chunk := source.read(CHUNK):
            left -= len(chunk)
            if left < 0:
                raise UserError(f"its member {member.name!r} holds more than it declares", str(archive))
            file.write(chunk)
    return path
