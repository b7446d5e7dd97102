"""Studies of a DICOM tree that hold pictures of the right kind, but none whose header says where it lies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.config import Select
from medseg.core.errors import UserError
from medseg.data.manifest import safe_name
from medseg.data.rows import CaseRow

if TYPE_CHECKING:
    from medseg.io.dicom.headers import LeftOut
    from medseg.io.dicom.series import Series

VOLUMES = ("CT", "MR", "PT", "NM")
"""Modalities whose pictures are slices of a volume."""

NO_PLACE = ("no position", "no pixel spacing", "pixel spacing", "orientation that", "pixel data is", "claims")
"""How the reasons begin that make a picture of a volume useless."""

REMEDY = (
    "export the study again from the scanner or the archive, or convert it with the scanner's own program"
)


class NoVolume(UserError):
    """There are DICOM files, but none of them is a slice of a volume; the faults say what they are."""

    def __init__(self, files: Sequence[LeftOut], root: Path) -> None:
        reasons = Counter((item.modality or "not DICOM", item.reason) for item in files)
        super().__init__(
            f"none of {len(files)} files here is a slice of a volume",
            str(root),
            "films and photographs (CR, DX, MG, XC) are read as PNG, JPEG or TIFF: convert them first",
            [f"{count} x {kind}: {reason}" for (kind, reason), count in reasons.most_common(8)],
        )


def lost_studies(
    series: Sequence[Series], strange: Sequence[LeftOut], select: Select
) -> list[tuple[LeftOut, ...]]:
    """The useless pictures of every study that has no series at all; each study is a case that failed, not a gap."""
    wanted = (select.modality.upper(),) if select.modality else VOLUMES
    there = {(one.patient_key, one.study_uid) for one in series}
    found: dict[tuple[str, str], list[LeftOut]] = defaultdict(list)
    for item in strange:
        study = item.patient_key, item.study_uid
        if study not in there and item.modality in wanted and item.reason.startswith(NO_PLACE):
            found[study].append(item)
    return [tuple(files) for _, files in sorted(found.items()) if len(files) >= select.min_slices]


def lost_rows(lost: Sequence[tuple[LeftOut, ...]], taken: Sequence[str]) -> list[CaseRow]:
    """A case for each lost study, with its trouble; named after its folder like any other."""
    rows: list[CaseRow] = []
    for files in lost:
        folder = safe_name(files[0].file.parent.name)
        names = {*taken, *(row.case for row in rows)}
        name = next(n for n in (folder, *(f"{folder} {k}" for k in range(2, 10**6))) if n not in names)
        reason, count = Counter(item.reason for item in files).most_common(1)[0]
        trouble = f"makes no volume: {reason} in {count} of its {len(files)} pictures -> {REMEDY}"
        images = (tuple(str(item.file) for item in files),)
        rows.append(CaseRow(name, files[0].patient_key or name, images, trouble=trouble))
    return rows
