"""Finding the cases of a journey, and keeping them in the run folder.

`cases.parquet` holds what may be shown: names, splits, states, grid facts. Paths, patients' keys as given and folder
names stay in `private/sources.json`.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from medseg.config import ClassSpec, Data
from medseg.core.atomic import part_prefix, read_json, write_json, write_text
from medseg.core.errors import UserError, did_you_mean
from medseg.core.run import RunFolder
from medseg.core.segmentation import ClassInfo
from medseg.data.classes import class_infos
from medseg.data.description import filled_in, is_description, load_description
from medseg.data.description import find as find_described
from medseg.data.layouts.names import results_below
from medseg.data.manifest import read_manifest
from medseg.data.patients import by_first_words, doubtful_words
from medseg.data.reading import open_case
from medseg.data.rows import CaseRow, Cohort, Found, column_name, counted
from medseg.data.splits import assign_splits, read_split_file

__all__ = [
    "CaseRow",
    "Cohort",
    "cases_of",
    "find_cases",
    "load_cohort",
    "open_case",
    "resolved",
    "save_cohort",
]

Which = Literal["train", "val", "test", "holdout", "all"]
TABLE_NAMES = ("manifest.csv", "manifest.parquet")


def data_root(data: Data) -> Path | None:
    """The folder that the data lies in: data.root (or --data), else MEDSEG_DATA, else none."""
    named = data.root or os.environ.get("MEDSEG_DATA")
    return Path(named).expanduser() if named else None


def resolved(data: Data, root: Path | None = None) -> Data:
    """The data section with what the data set itself says of modality, classes, ignore value and channels.

    What the pipeline file says stays. Cheap: reads a description or dataset.json, no images. Called once before the
    walk, so that every room sees the same classes.
    """
    if is_description(data.manifest):
        return filled_in(data, load_description(str(data.manifest)))
    root = root or data_root(data)
    if data.manifest or root is None or not (root / "dataset.json").is_file():
        return data
    found = look(data, root)
    given = data.model_fields_set
    update = {key: value for key, value in found.settings.items() if key not in given}
    if not data.classes and found.classes:
        update["classes"] = dict(found.classes)
    if not data.channels and found.channels:
        update["channels"] = list(found.channels)
    return data.model_copy(update=update)


def find_cases(data: Data, root: Path | None = None, key: bytes | None = None) -> Cohort:
    """The cases that the data section names, each with its split.

    root: folder of the data; default: `data_root(data)`. key: makes hashed names and patient keys repeatable within
    a run (see `cohort_key`); None: new ones at every call. Classes are empty where only the labels know them.
    Raises UserError when nothing is found, when a table has faults, or when a patient lies in two splits.
    """
    root = root or data_root(data)
    data = resolved(data, root)
    found = by_first_words(_with_subjects(look(data, root)), data.split.patient_words)
    if not found.rows:
        raise UserError("no cases found", str(root or data.manifest), "see `medseg init FOLDER`")
    specs = data.classes or found.classes
    rows, notes = found.rows, found.notes
    if data.split.file:
        rows, more = read_split_file(rows, _split_file(data, root))
        notes += more
    if data.manifest and not is_description(data.manifest) and specs:
        _require_known_names(rows, specs)
    rows = tuple(_with_values(row, data, specs) for row in rows)
    doubt = 0 if is_description(data.manifest) else doubtful_words(rows, found, data.split.by)
    rows, how = assign_splits(rows, data.split)
    notes += (*how, *_several_scans(rows, found, data))
    rows, left_out, names = _named(rows, found, data, key or secrets.token_bytes(32))
    return Cohort(
        rows,
        class_infos(specs, data.background, data.ignore),
        found.layout,
        notes + names,
        left_out,
        tuple(data.channels) or found.channels,
        found.patients_known,
        # Without a part of the labels the files are not those that the description counted.
        found.checksum if sum(map(_n_files, rows)) == sum(map(_n_files, found.rows)) else "",
        doubt,
    )


def _require_known_names(rows: Sequence[CaseRow], specs: Mapping[str, ClassSpec]) -> None:
    """Raises UserError for names in the column `known` that are no class: a misspelt class would count as undrawn."""
    faults = [
        f"{row.place}: '{name}' is no class{did_you_mean(name, specs)}"
        for row in rows
        for name in row.known or ()
        if name not in specs
    ]
    if faults:
        raise UserError(
            f"the column `known` has {len(faults)} name{'s' * (len(faults) > 1)} that no class has",
            "data.manifest",
            f"the classes are {counted(specs, 12)}",
            faults[:20],
        )


def _n_files(row: CaseRow) -> int:
    return len(row.files)


def look(data: Data, root: Path | None) -> Found:
    """The cases as they lie, by the layout that was asked for or recognised."""
    if is_description(data.manifest):
        return find_described(root, data, load_description(str(data.manifest)))
    if data.manifest:
        return read_manifest(_beside(Path(data.manifest).expanduser(), root), data, root)
    if root is None:
        raise UserError(
            "no data is named", "data", "give --data FOLDER, data.root, data.manifest, or MEDSEG_DATA"
        )
    if not root.exists():
        raise UserError("no such folder", str(root), "give --data the folder that holds the images")
    if root.is_file() and root.suffix.lower() in (".csv", ".parquet"):
        return read_manifest(root, data, root.parent)
    found = _recognise(data, root)
    ours = len(results_below(root)) if root.is_dir() else 0
    folders = "a folder that medseg wrote is" if ours == 1 else f"{ours} folders that medseg wrote are"
    note = f"{folders} passed over: predicted masks are no labels unless a table of cases names them"
    return replace(found, notes=(*found.notes, note)) if ours else found


def _beside(manifest: Path, root: Path | None) -> Path:
    if manifest.exists() or manifest.is_absolute() or root is None:
        return manifest
    return root / manifest


def _split_file(data: Data, root: Path | None) -> Path:
    named = Path(str(data.split.file)).expanduser()
    return named if root is None or named.is_absolute() else root / named


def _recognise(data: Data, root: Path) -> Found:
    """Tries the layouts from the most to the least particular; `data.layout` leaves one to try."""
    from medseg.data.layouts import bids, decathlon, dicom, nnunet, pairs
    from medseg.data.layouts.dicom_lost import NoVolume

    def table(root: Path, data: Data) -> Found | None:
        named = next((root / name for name in TABLE_NAMES if (root / name).is_file()), None)
        return None if named is None else read_manifest(named, data, root)

    def dicom_tree(root: Path, data: Data) -> Found | None:
        return dicom.find(root, data) if root.is_dir() and dicom.looks_like_dicom(root) else None

    known = {"manifest": table, "decathlon": decathlon.find, "nnunet": nnunet.find, "bids": bids.find,
             "pairs": pairs.find, "dicom": dicom_tree}  # fmt: skip
    if data.layout != "auto":
        found = known[data.layout](root, data)
        if found is None:
            raise UserError(
                f"the folder does not have the layout '{data.layout}'", str(root), "try data.layout: auto"
            )
        return found
    # Images that lie in named folders come before DICOM: a set may bring some of its images in both forms.
    for layout in ("manifest", "decathlon", "nnunet", "bids"):
        if (found := known[layout](root, data)) is not None:
            return found
    if root.is_dir() and dicom.looks_like_dicom(root):
        paired = pairs.find(root, data)
        if (
            paired is None
            or not any(row.labels for row in paired.rows)
            or "folder images" not in paired.layout
        ):
            try:
                found = dicom.find(root, data)
            except NoVolume:
                if paired is None:
                    raise
                found = None
            if found is not None:
                return found
    found = pairs.find(root, data)
    if found is None:
        raise UserError(
            "no images found here",
            str(root),
            "medseg reads DICOM, NIfTI, NRRD, MHA, PNG, JPEG and TIFF; name other layouts in a table (data.manifest)",
        )
    return found


def _with_subjects(found: Found) -> Found:
    """Patients by the part `sub-<label>` of names, where every name begins with one (the BIDS convention)."""
    labels = [re.match(r"sub-[A-Za-z0-9]+(?=[_ .-]|$)", row.case) for row in found.rows]
    if found.patients_known or found.raw_names or not all(labels):
        return found
    rows = tuple(replace(row, patient=label[0]) for row, label in zip(found.rows, labels) if label)
    note = "patients are told apart by `sub-<label>` at the beginning of the names"
    return replace(found, rows=rows, patients_known=True, notes=(*found.notes, note))


def _several_scans(rows: Sequence[CaseRow], found: Found, data: Data) -> tuple[str, ...]:
    if found.patients_known or len(rows) < 2 or is_description(data.manifest):
        return ()
    return (
        "no patient key: every case counts as another patient; if some are scans of the same person, give a table"
        " with a patient column or data.split.patient_words, or training and validation will share people",
    )


def _with_values(row: CaseRow, data: Data, specs: Mapping[str, ClassSpec]) -> CaseRow:
    """Classes that the data set named, spelled out in the row where data.classes does not have them.

    A case whose own label has none of the wanted classes counts as a case without a label.
    """
    if row.values is not None:
        return row if not specs or set(specs) & set(row.values) else replace(row, labels={}, known=None)
    if data.classes or not specs:
        return row
    return replace(row, values={n: (column_name(s.column), tuple(s.values)) for n, s in specs.items()})


def _named(
    rows: Sequence[CaseRow], found: Found, data: Data, key: bytes
) -> tuple[tuple[CaseRow, ...], tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Names that may be shown: keyed hashes for DICOM trees (data.ids), patients hashed unless names were asked for."""
    hide = data.ids == "hashed" or (data.ids == "auto" and found.raw_names)
    done = []
    for row in rows:
        case = f"case-{_hash(row.case, key)}" if hide else row.case
        keep = data.ids == "names" or (row.patient == row.case and not hide)
        patient = row.patient if keep else f"patient-{_hash(row.patient, key)}"
        done.append(replace(row, case=case, patient=patient))
    names = [row.case for row in done]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"two cases have the name {counted(twice)}", "data", "give a table with a case column"
        )
    left_out = found.left_out
    if hide:
        left_out = tuple((f"left-out-{_hash(name, key)}", reason) for name, reason in left_out)
    notes = (
        (
            "case names are keyed hashes; private/sources.json in the run folder (of a check: with --out) says whose",
        )
        if hide
        else ()
    )
    return tuple(done), left_out, notes


def _hash(text: str, key: bytes) -> str:
    return hmac.new(key, text.encode("utf-8", "surrogateescape"), sha256).hexdigest()[:10]


def cohort_key(folder: RunFolder) -> bytes:
    """The key of a run's hashed names; made on first use, kept in the run folder's private part.

    Jobs that begin at the same moment agree on the one that is there first: the names of their cases have to agree.
    """
    path = folder.private / "key.hex"
    if not path.exists():
        own = path.with_name(f"{part_prefix()}{secrets.token_hex(4)}.hex")
        write_text(own, secrets.token_hex(32) + "\n")
        os.chmod(own, 0o600)
        try:
            os.link(own, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(own, path)
        finally:
            own.unlink(missing_ok=True)
    return bytes.fromhex(path.read_text().strip())


# --- in the run folder --------------------------------------------------------------------------------------------


def save_cohort(cohort: Cohort, folder: RunFolder, facts: Sequence[dict[str, Any]] | None = None) -> None:
    """Writes cases.parquet (no paths) and private/sources.json.

    facts: one mapping a row with status (ok, failed, skipped), reason and whatever the check measured.
    """
    import pandas as pd

    from medseg.core.atomic import atomic_path

    facts = facts or [{"status": "ok", "reason": ""}] * len(cohort.rows)
    table = pd.DataFrame([{**_public(row), **fact} for row, fact in zip(cohort.rows, facts, strict=True)])
    table["fold"] = table["fold"].astype("Int64")
    with atomic_path(folder.cases) as part:
        table.to_parquet(part, index=False)
    write_json(
        folder.sources,
        {
            "rows": [row.as_json() for row in cohort.rows],
            "classes": [info.as_json() for info in cohort.classes],
            "layout": cohort.layout,
            "notes": list(cohort.notes),
            "left_out": [list(item) for item in cohort.left_out],
            "channels": list(cohort.channels),
            "patients_known": cohort.patients_known,
            "checksum": cohort.checksum,
        },
    )


def _public(row: CaseRow) -> dict[str, Any]:
    known = "" if row.known is None else "|".join(row.known)
    return {"case": row.case, "patient": row.patient, "split": row.split, "fold": row.fold,
            "labelled": bool(row.labels), "known": known}  # fmt: skip


def load_cohort(folder: RunFolder) -> Cohort:
    """The cases that passed the check; those that did not are in `left_out` with their reasons."""
    import pandas as pd

    if not folder.cases.exists():
        raise UserError("the data has not been checked yet", str(folder.cases), "run `medseg check` first")
    facts = read_json(folder.sources)
    table = pd.read_parquet(folder.cases).set_index("case")
    rows = [_placed(CaseRow.from_json(row), table) for row in facts["rows"]]
    passed = tuple(row for row in rows if table.at[row.case, "status"] == "ok")
    failed = [
        (row.case, str(table.at[row.case, "reason"])) for row in rows if table.at[row.case, "status"] != "ok"
    ]
    return Cohort(
        passed,
        tuple(ClassInfo.from_json(info) for info in facts["classes"]),
        facts["layout"],
        tuple(facts["notes"]),
        (*(tuple(item) for item in facts["left_out"]), *failed),
        tuple(facts["channels"]),
        facts["patients_known"],
        facts["checksum"],
    )


def _placed(row: CaseRow, table: Any) -> CaseRow:
    """The row with the split of the table: a member of a cross-validation has its own."""
    return replace(row, split=str(table.at[row.case, "split"] or ""))


def cases_of(cohort: Cohort, which: Which) -> tuple[CaseRow, ...]:
    """The rows of one split; `holdout` is test, else validation, else every case."""
    if which == "all":
        return cohort.rows
    if which == "holdout":
        return cases_of(cohort, "test") or cases_of(cohort, "val") or cohort.rows
    return tuple(row for row in cohort.rows if row.split == which)
