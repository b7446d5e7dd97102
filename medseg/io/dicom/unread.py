"""Files among a series' slices that cannot be read: a slice that is lost at an end leaves no gap that would tell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from medseg.io.dicom.headers import NotASlice, Slice
from medseg.io.dicom.known import slices_of
from medseg.io.layout import END_IN_DOUBT
from medseg.io.names import DICOM

LONGEST_HEADER = 2**16
"""A file that was cut inside its header is shorter."""

SHORTER = 0.5
"""Share of the smallest slice's size below which a file may be a cut one: slices of other series in the same folder,
which are not opened for this, are rarely so much smaller, also where all are compressed."""

LOST = (
    "empty file",
    "damaged header",
    "cannot be read",
    "no pixels",
    "pixel data is",
    "claims",
    "not a DICOM file",
)
"""How the reasons begin for which a slice is none any more."""


def lost_beside(slices: Sequence[Slice]) -> tuple[str, ...]:
    """A note where files in the folders of `slices`, named like them, are empty or cut inside their headers.

    A file that was cut in its pixels still tells its series, which is refused for it when the folder is scanned.
    """
    mine = {one.path for one in slices}
    endings = {path.suffix.lower() for path in mine}
    longest = min(LONGEST_HEADER, SHORTER * min(path.stat().st_size for path in mine))
    reasons: list[str] = []
    for folder in sorted({path.parent for path in mine}):
        for entry in sorted(os.scandir(folder), key=lambda e: e.name):
            path = Path(entry.path)
            if path.suffix.lower() not in endings or path in mine or path.name.startswith("."):
                continue
            if (
                entry.is_file()
                and entry.stat().st_size < longest
                and (why := _unread(path, slices[0].series_uid))
            ):
                reasons.append(why)
    if not reasons:
        return ()
    return (f"{len(reasons)} of the files beside its slices cannot be read ({reasons[0]}): {END_IN_DOUBT}",)


def _unread(path: Path, series_uid: str) -> str:
    """Why a file that should be a slice is none; "" for files that are whole, of other series, or were never DICOM."""
    try:
        slices_of(path)
    except NotASlice as err:
        foreign = err.reason == "not a DICOM file" and path.suffix.lower() not in DICOM
        other = err.left_out(path).series_uid not in ("", series_uid)
        return err.reason if err.reason.startswith(LOST) and not foreign and not other else ""
    return ""
