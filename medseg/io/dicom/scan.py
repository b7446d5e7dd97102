"""Looks through a folder and says what is in it: every file ends in a series or is left out with a reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from medseg.core.folders import walk_data
from medseg.core.machine import cores
from medseg.io.dicom.choose import Choice, choose
from medseg.io.dicom.headers import LeftOut, NotASlice, Slice
from medseg.io.dicom.known import slices_of
from medseg.io.dicom.series import Series, SeriesTie, series_of
from medseg.io.dicom.stacks import split

__all__ = ["Choice", "LeftOut", "Series", "SeriesTie", "choose", "files_below", "scan", "scan_files"]

MOST_READERS = 8
DAMAGE = ("short", "claims", "no pixels", "is missing", "no position", "no pixel spacing", "its header says")
"""Words of the reasons that leave out a picture which its series lacks then; what never was one has other reasons."""

INDEX_NAMES = frozenset(("DICOMDIR",))


def scan(folder: Path, spacing_tolerance: float = 0.01) -> tuple[list[Series], list[LeftOut]]:
    """All series below `folder` and all files that belong to none.

    Sub-folders are searched, links are followed and loops of links cut. The result does not depend on the order or
    the names of files. A file whose header can be read but whose pixels are short makes its series a conflict: a
    volume with a hole is not read as if it were whole.
    """
    return scan_files(files_below(folder), spacing_tolerance)


def scan_files(files: Sequence[Path], spacing_tolerance: float = 0.01) -> tuple[list[Series], list[LeftOut]]:
    """The same for a list of files."""
    found: list[Slice] = []
    left: list[LeftOut] = []
    with ThreadPoolExecutor(min(MOST_READERS, 2 * cores())) as readers:
        for part in readers.map(_look, files):
            if isinstance(part, LeftOut):
                left.append(part)
            else:
                found += part
    groups: dict[str, list[Slice]] = defaultdict(list)
    for one in found:
        # Not split by patient: two patients under one series UID are a conflict that somebody has to look at.
        groups[one.series_uid].append(one)
    series = []
    for key in sorted(groups):
        for stack in split(groups[key]):
            series.append(series_of(stack, spacing_tolerance))
            used = {s.path for s in stack.slices}
            groups[key] = [s for s in groups[key] if s.path not in used]
        left += [_copy(s) for s in groups[key]]
    series = _one_volume_a_file(_holed(_each_its_key(series), left))
    return sorted(series, key=lambda s: s.key), left


def files_below(folder: Path) -> list[Path]:
    """Every file of the data under `folder`, in a fixed order; broken links are kept (they are reported)."""
    return [place / name for place, _, names in walk_data(folder) for name in names]


def _look(path: Path) -> list[Slice] | LeftOut:
    if path.name.upper() in INDEX_NAMES:
        return LeftOut(path, "an index of other files")
    try:
        return slices_of(path)
    except NotASlice as err:
        return err.left_out(path)


def _copy(one: Slice) -> LeftOut:
    return LeftOut(
        one.path, "a copy of another slice", one.series_uid, one.modality, one.study_uid, one.patient
    )


def _each_its_key(series: Sequence[Series]) -> list[Series]:
    """Stacks of one series that lean against each other by less than their keys say get keys of their own."""
    out: dict[tuple[str, str], Series] = {}
    for one in series:
        uid, name = one.key
        while (uid, name) in out:
            name = sha256(f"{name} again".encode()).hexdigest()[:8]
        out[uid, name] = replace(one, key=(uid, name))
    return list(out.values())


def _holed(series: list[Series], left: Sequence[LeftOut]) -> list[Series]:
    """Marks series that have files which are no pictures any more: at an end of a series no gap would tell."""
    damaged: dict[str, list[LeftOut]] = defaultdict(list)
    for one in left:
        if one.series_uid and any(word in one.reason for word in DAMAGE):
            damaged[one.series_uid].append(one)
    out = []
    for one_series in series:
        bad = damaged.get(one_series.series_uid, [])
        if bad and not one_series.facts.get("conflict"):
            why = f"{len(bad)} of its files are damaged ({bad[0].reason})"
            one_series = replace(one_series, facts={**one_series.facts, "conflict": why})
        out.append(one_series)
    return out


def _one_volume_a_file(series: list[Series]) -> list[Series]:
    """A multi-frame file that holds several volumes cannot be handed on as a list of files."""
    owners: dict[Path, int] = defaultdict(int)
    for one in series:
        for file in one.files:
            owners[file] += 1
    out = []
    for one in series:
        most = max(owners[file] for file in one.files)
        if most > 1 and not one.facts.get("conflict"):
            why = f"one of {most} volumes inside one multi-frame file"
            one = replace(one, facts={**one.facts, "conflict": why})
        out.append(one)
    return out
