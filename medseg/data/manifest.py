"""A table of cases: CSV or Parquet with the columns case, patient, image or image_<channel>, label or label_<name>,
split, fold, known, prompt. Only the image is required. Paths are relative to the table's folder or to the data root."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.config import Data
from medseg.core.errors import UserError, did_you_mean
from medseg.data.rows import SPLITS, CaseRow, Found, counted, hidden
from medseg.io.names import in_letters, stem_of

PLAIN = ("case", "patient", "image", "label", "split", "fold", "known", "labelled", "prompt")
SPLIT_WORDS = {"": "", "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
               "dev": "val", "test": "test", "testing": "test", "holdout": "test"}  # fmt: skip


def read_manifest(path: Path, data: Data, root: Path | None = None) -> Found:
    """Reads a table of cases.

    Faults of the table itself (columns, names given twice, words that are no split) stop with all of them at once,
    each with its line. A missing image or label file is the fault of its case alone: the row says so in `trouble`.
    """
    table = read_table(path)
    lines = _Lines(path)
    images = _image_columns(table.columns, data, path)
    labels = [c for c in table.columns if c == "label" or c.startswith("label_")]
    faults: list[str] = []
    rows: list[CaseRow] = []
    for position, record in enumerate(table.to_dict("records")):
        if any(record.values()):
            rows.append(_row(record, images, labels, lines.of(position), (path.parent, root), faults))
    faults += _given_twice(rows)
    if faults:
        raise UserError(_count(faults), str(path), "correct these lines of the table", faults)
    if not rows:
        raise UserError("the table has no rows", str(path), "give one line a case, or use --data FOLDER")
    if data.channels and "image" not in images:
        channels = tuple(data.channels)
    else:
        channels = tuple(c.removeprefix("image_") for c in images) if len(images) > 1 else ()
    ignored = [c for c in table.columns if c not in (*PLAIN, *images, *labels)]
    notes = (f"columns not used: {counted(ignored)}",) if ignored else ()
    return Found(
        tuple(rows),
        f"table of cases ({path.suffix.lstrip('.').upper()})",
        notes=notes,
        channels=channels,
        patients_known="patient" in table.columns,
    )


def read_table(path: Path) -> Any:
    """A CSV (comma, semicolon or tab) or Parquet file as a pandas table of texts; empty cells are ""."""
    import pandas as pd

    if not path.is_file():
        raise UserError("no such table of cases", str(path), "give a CSV or Parquet file under data.manifest")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = pd.read_parquet(path)
            table = table.astype(object).where(table.notna(), "").map(_plain_text)
        else:
            _require_even_lines(path)
            table = pd.read_csv(path, index_col=False, sep=_separator(path), dtype=str, keep_default_na=False, na_filter=False,
                                encoding="utf-8-sig", skip_blank_lines=False, engine="c")  # fmt: skip
    except UnicodeDecodeError as err:
        raise UserError("is not UTF-8 text", str(path), "save the table as CSV in UTF-8") from err
    except (ValueError, OSError, csv.Error) as err:  # the parsing errors of pandas and Arrow
        raise UserError(f"cannot be read as a table ({_first_line(err)})", str(path)) from err
    table.columns = [str(c).strip().lower() for c in table.columns]
    return table.fillna("").map(str.strip)


def _require_even_lines(path: Path) -> None:
    """Raises UserError for a column given twice and for lines with more cells than columns.

    pandas would rename the first and shift the second, each without a word.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=_separator(path))
        columns = [c.strip().lower() for c in next(reader, [])]
        long = [(reader.line_num, len(cells)) for cells in reader if len(cells) > len(columns)]
    twice = sorted({c for c in columns if columns.count(c) > 1})
    if twice:
        raise UserError(f"line 1: the column '{twice[0]}' stands there twice", str(path))
    if long:
        faults = [f"line {line}: {cells} cells for {len(columns)} columns" for line, cells in long[:20]]
        raise UserError(
            _count(faults), str(path), 'put names with a comma into quotation marks: "a, b"', faults
        )


def _plain_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _separator(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        head = file.readline()
    return max(",;\t", key=head.count)


def _first_line(err: Exception) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0]


class _Lines:
    """Names a row as people find it: `line 7` of a CSV, `row 6` of a Parquet table."""

    def __init__(self, path: Path) -> None:
        self.is_text = path.suffix.lower() not in (".parquet", ".pq")

    def of(self, position: int) -> str:
        return f"line {position + 2}" if self.is_text else f"row {position + 1}"


def _image_columns(columns: Sequence[str], data: Data, path: Path) -> list[str]:
    """The image columns in channel order."""
    found = [c for c in columns if c == "image" or c.startswith("image_")]
    if not found:
        there = ", ".join(repr(c) for c in columns)
        near = next((c for c in columns if did_you_mean(c, ["image"])), "")
        raise UserError(
            f"line 1: no column 'image' or 'image_<channel>'; there are {there}"
            + (f" (is '{near}' meant as 'image'?)" if near else ""),
            str(path),
            "name the columns case, patient, image, label, split",
        )
    if "image" in found and len(found) > 1:
        raise UserError(
            f"line 1: both 'image' and {', '.join(found[1:])}",
            str(path),
            "use image_<channel> for all channels",
        )
    if not data.channels or found == ["image"]:
        return found
    wanted = [f"image_{c.lower()}" for c in data.channels]
    missing = [c for c in wanted if c not in found]
    if missing:
        raise UserError(
            f"line 1: no column '{missing[0]}'{did_you_mean(missing[0], found)}",
            str(path),
            "data.channels names the image_<channel> columns",
        )
    return wanted


def _row(
    record: Mapping[str, str],
    images: Sequence[str],
    labels: Sequence[str],
    place: str,
    folders: Sequence[Path | None],
    faults: list[str],
) -> CaseRow:
    trouble: list[str] = []
    channels = tuple(_image_files(record[c], c, folders, place, trouble) for c in images)
    drawn = {c: str(_find(record[c], folders)) for c in labels if record[c]}
    trouble += [
        f"{place} of the table: the file in column '{c}' does not exist"
        for c, f in drawn.items()
        if not _exists(f)
    ]
    prompt = str(_find(record["prompt"], folders)) if record.get("prompt") else ""
    if prompt and not Path(prompt).is_file():
        trouble.append(f"{place} of the table: the file in column 'prompt' does not exist")
    named = next((record[c] for c in images if record[c]), "")
    case = record.get("case") or stem_of(Path(named.rstrip("/\\")))
    if not case:
        faults.append(f"{place}: neither a case name nor an image")
    known = record.get("known") or record.get("labelled") or ""
    return CaseRow(
        case=safe_name(case),
        patient=record.get("patient") or case,
        images=channels,
        labels=drawn,
        split=split_word(record.get("split", ""), place, faults),
        fold=fold_number(record.get("fold", ""), place, faults),
        known=tuple(filter(None, (k.strip() for k in re.split(r"[|;,]", known)))) or None,
        place=place,
        trouble="; ".join(trouble),
        prompt=prompt,
    )


def _image_files(
    cell: str, column: str, folders: Sequence[Path | None], place: str, trouble: list[str]
) -> tuple[str, ...]:
    """The files of one channel: the path itself, or the files of a DICOM folder."""
    if not cell:
        what = "no image" if column == "image" else f"no file for channel '{column.removeprefix('image_')}'"
        trouble.append(f"{place} of the table: {what} (column '{column}' is empty)")
        return ()
    path = _find(cell, folders)
    if path.is_dir():
        files = files_of_folder(path)
        if not files:
            trouble.append(f"{place} of the table: the folder in column '{column}' holds no files")
        return files
    if not path.is_file():
        trouble.append(f"{place} of the table: the file in column '{column}' does not exist")
    return (str(path),)


def files_of_folder(folder: Path) -> tuple[str, ...]:
    """The files that lie directly in a folder, sorted by name, without the system's own."""
    with os.scandir(folder) as entries:
        return tuple(sorted(e.path for e in entries if e.is_file() and not hidden(Path(e.path))))


def _find(cell: str, folders: Sequence[Path | None]) -> Path:
    """A cell's path: absolute, or below the first of `folders` where it exists; as Windows writes it, too."""
    spellings = [Path(cell).expanduser(), Path(cell.replace("\\", "/"))]
    places = [
        place
        for given in spellings
        for place in ([given] if given.is_absolute() else [f / given for f in folders if f is not None])
    ]
    return next((p for p in places if p.exists()), places[0])


def _exists(name: str) -> bool:
    return Path(name).exists()


def safe_name(case: str) -> str:
    """A case name that can name a file: separators and control characters become `_`, letters of any script stay."""
    name = re.sub(r"[\x00-\x1f/\\:*?\"<>|]+", "_", in_letters(case).strip()).strip(" .")
    return name[:120] or "case"


def split_word(word: str, place: str, faults: list[str]) -> str:
    """`validation` -> val; another word is added to `faults`."""
    if word.lower() in SPLIT_WORDS:
        return SPLIT_WORDS[word.lower()]
    faults.append(f"{place}: '{word}' is no split{did_you_mean(word, SPLITS)} (train, val, test)")
    return ""


def fold_number(word: str, place: str, faults: list[str]) -> int | None:
    """`3` -> 3, empty -> None; another word is added to `faults`."""
    if not word:
        return None
    try:
        number = int(word)
    except ValueError:
        number = -1
    if number < 0:
        faults.append(f"{place}: '{word}' is no fold (0, 1, 2 ...)")
        return None
    return number


def _given_twice(rows: Sequence[CaseRow]) -> list[str]:
    """Two lines with one case name, in any spelling a file system could mix up; or one image under two names."""
    faults: list[str] = []
    by_name: dict[str, CaseRow] = {}
    by_image: dict[tuple[tuple[str, ...], ...], CaseRow] = {}
    for row in rows:
        first = by_name.setdefault(row.case.casefold(), row)
        if first is not row:
            faults.append(f"{row.place}: the case name '{row.case}' was already given in {first.place}")
            continue
        twin = by_image.setdefault(row.images, row) if any(row.images) else row
        if twin is not row:
            faults.append(f"{row.place}: the same image as in {twin.place}")
    return faults


def _count(faults: Sequence[str]) -> str:
    return "has 1 fault" if len(faults) == 1 else f"has {len(faults)} faults"
