"""A tree of DICOM files in any folders, with optional label volumes beside or inside the series' folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.config import Data, Select
from medseg.core.errors import UserError
from medseg.core.folders import walk_data
from medseg.data.layouts.dicom_lost import NoVolume, lost_rows, lost_studies
from medseg.data.layouts.names import LABEL_WORDS, folders_below, readable_files, words_of
from medseg.data.manifest import safe_name
from medseg.data.rows import CaseRow, Found, hidden
from medseg.io.names import DICOM, stem_of

LONGEST_TABLE = 40

LABEL_OBJECTS = ("SEG", "RTSTRUCT")
"""Modalities of files that hold labels of a series."""

UNREADABLE = ("empty file", "damaged header", "cannot be read", "pixel data is")
"""How the reasons begin for which a file that may be a slice was left out."""

PREDICTED = "predicted by medseg, so no reference; a table of cases can name it as one"

LOOK_AT = 200
"""Files without a known ending that are opened to find out whether a folder holds DICOM."""


def looks_like_dicom(root: Path) -> bool:
    """Whether a folder (to any depth) holds DICOM files: by ending, or by the letters DICM at byte 128."""
    looked = 0
    for folder, folders, files in walk_data(root):
        folders[:] = [d for d in folders if not hidden(Path(d))]
        for name in files:
            path = folder / name
            if name.lower().endswith(DICOM) or (not path.suffix and _has_mark(path)):
                return True
            looked += not path.suffix
            if looked > LOOK_AT:
                return False
    return False


def _has_mark(path: Path) -> bool:
    if not path.is_file():  # a pipe would be waited on for ever
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def find(root: Path, data: Data) -> Found | None:
    """One case for every study's chosen series; every other series and file is left out with its reason.

    A study of the right kind whose series cannot make a volume becomes a case with that trouble: it is counted as
    failed, not lost. Raises UserError with a table when a study holds several series that fit equally well, and NoVolume when
    there are DICOM files but none that makes a volume.
    """
    from medseg.io.dicom.scan import choose, scan

    series, strange = scan(root, data.spacing_tolerance)
    lost = lost_studies(series, strange, _select(data))
    if not series and not lost:
        if strange:
            raise NoVolume(strange, root)
        return None
    try:
        choice = choose(series, _select(data))
    except UserError as err:  # several series of one study fit: a person has to choose
        err.where = err.where or "data"
        raise
    broken = _broken(choice)
    kept = [*choice.kept, *(one for one, _ in broken)]
    left_out = [(_folder_name(s, root), reason) for s, reason in choice.left_out if (s, reason) not in broken]
    if not kept and not lost:
        raise UserError(
            f"none of {len(series)} DICOM series can be taken",
            "the data folder",
            "change data.select (modality, min_slices, description)",
            sorted({reason for _, reason in left_out})[:10],
        )
    labels, volumes = _labels_of(kept, root)
    drawn, predicted = _drawn_on(kept, [item.file for item in strange if item.modality in LABEL_OBJECTS])
    for position, files in drawn.items():
        if position not in labels and len(files) == 1:
            labels[position] = {"label": str(files[0])}
    used = {Path(name) for columns in labels.values() for name in columns.values()}
    several = {file: len(files) for files in drawn.values() for file in files if len(files) > 1}
    left_out += [
        (str(item.file.relative_to(root)), PREDICTED if item.file in predicted else _why_left(item, several))
        for item in strange
        if item.file not in volumes and item.file not in used and all(item not in files for files in lost)
    ]
    unused = len(set(volumes) - used)
    notes = (f"{unused} volume files beside the series belong to none of them",) if unused else ()
    notes += _gaps(kept, strange)
    troubles = dict(enumerate(reason for _, reason in broken))
    rows = [
        _row(one, kept, labels.get(position, {}), troubles.get(position - len(choice.kept), ""))
        for position, one in enumerate(kept)
    ]
    rows += lost_rows(lost, [row.case for row in rows])
    return Found(
        tuple(rows),
        f"DICOM: {len(choice.kept)} of {len(series)} series",
        notes=(*_table(choice), *notes),
        left_out=tuple(left_out),
        patients_known=all(one.patient_key for one in kept) and all(files[0].patient_key for files in lost),
        raw_names=True,
    )


def _gaps(kept: Sequence[Any], strange: Sequence[Any]) -> tuple[str, ...]:
    """Files among a series' slices that cannot be read: at its end nothing else would show that slices are lacking."""
    folders = {Path(one.files[0]).parent for one in kept}
    files = [item for item in strange if item.file.parent in folders and item.reason.startswith(UNREADABLE)]
    if not files:
        return ()
    held = len({item.file.parent for item in files})
    return (
        f"{len(files)} files among the slices of {held} series cannot be read: those volumes may lack slices at an end",
    )


def _drawn_on(kept: Sequence[Any], files: Sequence[Path]) -> tuple[dict[int, list[Path]], set[Path]]:
    """Position in `kept` -> the segmentations and structure sets that say that they were drawn on that series; and
    those that medseg predicted: they come back with the study from an archive, and are no reference."""
    from medseg.io.dicom.beside import drawn_on
    from medseg.io.dicom.read_rtstruct import references_of

    found: dict[int, list[Path]] = {}
    predicted = set()
    for file in sorted(files):
        references = references_of(file)
        if references.predicted:
            predicted.add(file)
            continue
        for position, one in enumerate(kept):
            if drawn_on(references, one):
                found.setdefault(position, []).append(file)
    return found, predicted


def _why_left(item: Any, several: Mapping[Path, int]) -> str:
    if item.file in several:
        return f"one of {several[item.file]} label files of one series; name the right one in a manifest"
    return str(item.reason)


def _table(choice: Any) -> tuple[str, ...]:
    """What was taken and why each other series was left, where there was a choice and a person can read it."""
    lines = tuple(str(line) for line in choice.table())
    return lines if choice.left_out and len(lines) <= LONGEST_TABLE else ()


def _broken(choice: Any) -> list[tuple[Any, str]]:
    """One series for each study that was left without any because its pictures make no volume."""
    whole = {(one.patient_key, one.study_uid) for one in choice.kept}
    found: dict[tuple[str, str], tuple[Any, str]] = {}
    for one, reason in choice.left_out:
        if one.facts.get("conflict") == reason and (one.patient_key, one.study_uid) not in whole:
            found.setdefault((one.patient_key, one.study_uid), (one, reason))
    return list(found.values())


def _select(data: Data) -> Select:
    """The choice among series; a journey for CT or MR takes only those, unless the pipeline file says otherwise."""
    if data.select.modality is None and data.modality in ("ct", "mr"):
        return data.select.model_copy(update={"modality": data.modality.upper()})
    return data.select


def _row(series: Any, everyone: Sequence[Any], labels: Mapping[str, str], trouble: str) -> CaseRow:
    """The raw name is the folder's; series of one folder, or of folders of one name, get their short id as well."""
    folder = Path(series.files[0]).parent
    same = sum(Path(s.files[0]).parent.name == folder.name for s in everyone) > 1
    name = safe_name(f"{folder.name} {series.id}" if same else folder.name)
    images = (tuple(str(f) for f in series.files),)
    return CaseRow(name, series.patient_key or name, images, dict(labels), trouble=trouble)


def _folder_name(series: Any, root: Path) -> str:
    folder = Path(series.files[0]).parent
    return f"{folder.relative_to(root) if folder != root else root.name} ({series.n_slices} slices)"


def _labels_of(kept: Sequence[Any], root: Path) -> tuple[dict[int, dict[str, str]], list[Path]]:
    """Position in `kept` -> label column -> file; and all volume files below the root.

    A label lies inside the series' folder, or anywhere below the root under the folder's name with or without a word
    like label, mask or seg.
    """
    files = [f for folder in folders_below(root, 6) for f in readable_files(folder)]
    found: dict[int, dict[str, str]] = {}
    for position, one in enumerate(kept):
        folder = Path(one.files[0]).parent
        alone = sum(Path(s.files[0]).parent == folder for s in kept) == 1
        inside = [f for f in files if f.parent == folder]
        wanted = words_of(folder.name)
        named = [f for f in files if [w for w in words_of(stem_of(f)) if w not in LABEL_WORDS] == wanted]
        candidates = inside if len(inside) == 1 and folder != root else named
        if alone and len(candidates) == 1:
            found[position] = {"label": str(candidates[0])}
    return found, files
