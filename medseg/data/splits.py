"""Which cases train, validate and test. Whole patients stay together; what was dealt out is written down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg.config import Split
from medseg.core.errors import UserError, did_you_mean
from medseg.data.manifest import fold_number, read_table, split_word
from medseg.data.rows import CaseRow, counted

Key = Callable[[CaseRow], str]
"""What is kept together: the patient of a row, or the case itself."""


def deal(patients: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """Patient -> fold: the sorted patients are shuffled by `seed` and dealt out in turn."""
    shuffled = _shuffled(patients, seed)
    return {patient: turn % folds for turn, patient in enumerate(shuffled)}


def _shuffled(patients: Sequence[str], seed: int | list[int]) -> list[str]:
    """The different keys in an order that `seed` fixes. Their places are shuffled: numpy's strings lose a NUL at the end,
    which a DICOM patient without an issuer has in the key."""
    ordered = sorted(set(patients))
    return [ordered[place] for place in np.random.default_rng(seed).permutation(len(ordered))]


def assign_splits(rows: Sequence[CaseRow], split: Split) -> tuple[tuple[CaseRow, ...], tuple[str, ...]]:
    """Gives every row that can teach (it has a label) its split and fold; returns the rows and what was decided.

    A split that was given stays: `train` and `val` as they are, `test` set aside; a fold that was given makes the
    cases of `split.fold` the validation. A row of which nothing is said goes where another of its patient was put. Where
    nothing was given, `split.test_fraction` of the patients become the test and the rest is dealt into folds. Rows
    without a label keep what they were given.
    Raises UserError when a patient would lie in two splits or folds, naming the cases.
    """
    if split.fold >= split.folds:
        raise UserError(
            f"data.split.fold is {split.fold}, but there are {split.folds} folds (0 to {split.folds - 1})",
            "data.split",
        )
    group = _case if split.by == "case" else _patient
    require_whole_patients(rows, group)
    rows = _beside_their_patient(rows, group)
    labelled = [row for row in rows if row.labels and not row.trouble]
    if not labelled:
        return tuple(rows), ()
    open_rows = [row for row in labelled if row.split in ("", "train")]
    if any(row.split == "val" for row in labelled):
        return _fill(rows, {}, "train"), (_sentence(_fill(rows, {}, "train"), "as given"),)
    if any(row.fold is not None for row in open_rows):
        done = _by_given_folds(rows, split)
        loose = sum(row.fold is None for row in open_rows)
        always = f"; {loose} without a fold train in every one" if loose else ""
        return done, (_sentence(done, f"folds as given, fold {split.fold} validates{always}"),)
    given_test = any(row.split for row in labelled)
    test = set() if given_test else _test_patients([group(r) for r in open_rows], split)
    patients = sorted({group(r) for r in open_rows} - test)
    folds = min(split.folds, len(patients))
    if folds < 2:
        done = _fill(rows, dict.fromkeys(test, (None, "test")), "train", group)
        return done, (_sentence(done, "too few patients for a validation"),)
    if split.fold >= folds:
        raise UserError(
            f"data.split.fold is {split.fold}, but {len(patients)} patients give only {folds} folds",
            "data.split",
        )
    dealt = deal(patients, folds, split.seed)
    table = {p: (f, "val" if f == split.fold else "train") for p, f in dealt.items()}
    done = _fill(rows, {**table, **dict.fromkeys(test, (None, "test"))}, "train", group)
    how = f"{len(patients)} {split.by}s dealt into {folds} folds with seed {split.seed}, fold {split.fold} validates"
    return done, (_sentence(done, how),)


def _patient(row: CaseRow) -> str:
    return row.patient


def _case(row: CaseRow) -> str:
    return row.case


def _test_patients(patients: Sequence[str], split: Split) -> set[str]:
    """The patients of the final score: a share of the shuffled list, at least one where a share was asked for."""
    ordered = sorted(set(patients))
    if not split.test_fraction or len(ordered) < 3:
        return set()
    count = min(len(ordered) - 2, max(1, round(split.test_fraction * len(ordered))))
    # Another stream than that of `deal`, so that a test share does not move the folds' order in a fixed way.
    return set(_shuffled(patients, [split.seed, 1])[:count])


def _fill(
    rows: Sequence[CaseRow],
    table: Mapping[str, tuple[int | None, str]],
    rest: str,
    group: Key = _patient,
) -> tuple[CaseRow, ...]:
    """Rows with a label and no final word yet get what `table` says of their patient, else `rest`."""
    done = []
    for row in rows:
        if not row.labels or row.trouble or row.split in ("val", "test"):
            done.append(row)
            continue
        fold, split = table.get(group(row), (row.fold, rest))
        done.append(replace(row, fold=fold, split=split))
    return tuple(done)


def _by_given_folds(rows: Sequence[CaseRow], split: Split) -> tuple[CaseRow, ...]:
    done = []
    for row in rows:
        if row.labels and not row.trouble and row.split in ("", "train"):
            row = replace(row, split="val" if row.fold == split.fold else "train")
        done.append(row)
    if not any(row.split == "val" for row in done):
        there = sorted({row.fold for row in done if row.fold is not None})
        raise UserError(
            f"no case has the fold {split.fold}; there are {', '.join(map(str, there))}", "data.split.fold"
        )
    return tuple(done)


def _beside_their_patient(rows: Sequence[CaseRow], group: Key) -> tuple[CaseRow, ...]:
    """Rows with a label of which nothing is said get the split and fold that another row of their patient was given."""
    said = {group(row): (row.split, row.fold) for row in rows if row.split or row.fold is not None}
    done = []
    for row in rows:
        if row.labels and not row.split and row.fold is None and group(row) in said:
            split, fold = said[group(row)]
            row = replace(row, split=split, fold=fold)
        done.append(row)
    return tuple(done)


def _sentence(rows: Sequence[CaseRow], how: str) -> str:
    counts = {name: sum(row.split == name for row in rows) for name in ("train", "val", "test")}
    shares = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"split: {shares or 'none'} ({how})"


def require_whole_patients(rows: Sequence[CaseRow], group: Key = _patient) -> None:
    """Raises UserError that names the cases when one patient lies in two given splits or folds."""
    held: dict[str, dict[tuple[str, int | None], list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.split or row.fold is not None:
            fold = row.fold if row.split in ("", "train") else None
            held[group(row)][(row.split, fold)].append(row.case)
    faults = []
    for places in held.values():
        if len(places) > 1:
            parts = [
                f"{counted(cases)} in {name or 'train'}" + ("" if fold is None else f", fold {fold}")
                for (name, fold), cases in sorted(places.items(), key=str)
            ]
            faults.append("one patient: " + "; ".join(parts))
    if faults:
        raise UserError(
            f"{'a patient lies' if len(faults) == 1 else f'{len(faults)} patients lie'} in two splits",
            "data.split",
            "put all cases of a patient into one split; data.split.by: case only if they are different patients",
            faults[:20],
        )


def read_split_file(rows: Sequence[CaseRow], path: Path) -> tuple[tuple[CaseRow, ...], tuple[str, ...]]:
    """Rows with the split and fold that a CSV gives them (columns case, split and/or fold), and notes.

    A file may name more cases than lie here (a part of a data set), or fewer; both at once look like misspelt names
    and raise UserError, since such a case would silently change its split.
    """
    table = read_table(path)
    if "case" not in table.columns or not {"split", "fold"} & set(table.columns):
        raise UserError(
            f"line 1: a split file has the columns case and split or fold, got {', '.join(table.columns)}",
            str(path),
        )
    faults: list[str] = []
    said: dict[str, tuple[str, int | None]] = {}
    strange: list[str] = []
    known = {row.case for row in rows}
    for position, record in enumerate(table.to_dict("records")):
        place, case = f"line {position + 2}", record["case"]
        if not any(record.values()):
            continue
        if case not in known:
            strange.append(f"{place}: there is no case '{case}'{did_you_mean(case, known)}")
        if case in said:
            faults.append(f"{place}: case '{case}' is given twice")
        said[case] = (
            split_word(record.get("split", ""), place, faults),
            fold_number(record.get("fold", ""), place, faults),
        )
    unnamed = sorted(known - set(said))
    if strange and unnamed:
        faults += strange
        faults.append(f"while the file does not name {counted(unnamed)}")
    if faults:
        raise UserError(f"has {len(faults)} fault{'s' * (len(faults) > 1)}", str(path), faults=faults[:20])
    notes = (f"the split file names {len(strange)} cases that do not lie here",) if strange else ()
    return tuple(_said(row, said) for row in rows), notes


def _said(row: CaseRow, said: Mapping[str, tuple[str, int | None]]) -> CaseRow:
    if row.case not in said:
        return row
    split, fold = said[row.case]
    return replace(row, split=split or row.split, fold=fold if fold is not None else row.fold)
