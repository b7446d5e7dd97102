"""Archives are looked through before a byte of them is written."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from medseg.core.errors import UserError
from medseg.model import archive
from medseg.model.archive import unpack


def a_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def a_tar(path: Path, *entries: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for entry in entries:
            file.addfile(entry, io.BytesIO(b"x" * entry.size) if entry.isreg() else None)
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 3 if kind == tarfile.REGTYPE else 0
    return info


def refused(path: Path, tmp_path: Path) -> str:
    target = tmp_path / "out"
    with pytest.raises(UserError) as caught:
        unpack(path, target)
    assert not target.exists() or not list(target.rglob("*"))
    return str(caught.value)


def test_plain_files_come_out_as_they_went_in(tmp_path: Path) -> None:
    path = a_zip(tmp_path / "a.zip", {"a/b.txt": b"hello", "c.txt": b""})
    files = unpack(path, tmp_path / "out")
    assert sorted(p.name for p in files) == ["b.txt", "c.txt"]
    assert (tmp_path / "out" / "a" / "b.txt").read_bytes() == b"hello"
    tar = a_tar(tmp_path / "a.tar.gz", entry("x/y"), entry("x/z"))
    assert len(unpack(tar, tmp_path / "tar")) == 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "is an absolute path"),
        ("C:\\windows\\x", "is an absolute path"),
        ("a/../../x", "leads out of the folder"),
        ("..\\x", "leads out of the folder"),
    ],
)
def test_members_that_lead_elsewhere_are_refused(name: str, reason: str, tmp_path: Path) -> None:
    for path in (
        a_zip(tmp_path / "a.zip", {"good.txt": b"1", name: b"bad"}),
        a_tar(tmp_path / "a.tar.gz", entry("good"), entry(name)),
    ):
        assert reason in refused(path, tmp_path)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.FIFOTYPE, "device"),
    ],
)
def test_links_and_devices_are_refused(kind: bytes, word: str, tmp_path: Path) -> None:
    path = a_tar(tmp_path / "a.tar.gz", entry("good"), entry("bad", kind, "/etc/passwd"))
    assert f"is a {word}" in refused(path, tmp_path)


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("bad")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(info, "/etc/passwd")
    assert "is a link" in refused(tmp_path / "a.zip", tmp_path)


def test_one_name_twice_is_refused_also_in_another_case(tmp_path: Path) -> None:
    path = a_zip(tmp_path / "a.zip", {"plans.json": b"1", "PLANS.json": b"2"})
    assert "stands in it twice" in refused(path, tmp_path)


def test_too_many_members_and_too_many_bytes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = a_zip(tmp_path / "a.zip", {str(n): b"12345" for n in range(5)})
    monkeypatch.setattr(archive, "MOST_MEMBERS", 4)
    assert "holds 5 members, at most 4" in refused(path, tmp_path)
    monkeypatch.setattr(archive, "MOST_MEMBERS", 10)
    monkeypatch.setattr(archive, "MOST_BYTES", 20)
    assert "unpacks to 25 bytes, at most 20" in refused(path, tmp_path)


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    path = a_zip(tmp_path / "a.zip", {"zeros": bytes(40 * 2**20)})
    assert "this is a bomb" in refused(path, tmp_path)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"nothing")
    assert "is no zip or tar archive" in refused(tmp_path / "a.zip", tmp_path)
    with pytest.raises(UserError, match="no such archive"):
        unpack(tmp_path / "absent.zip", tmp_path / "out")
