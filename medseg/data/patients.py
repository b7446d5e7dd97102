"""Whether names of cases tell that several of them are scans of one patient; and patients by names, once confirmed."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from medseg.core.errors import Question, UserError
from medseg.data.rows import CaseRow, Cohort, Found, counted

MOST_WORDS = 4
"""How many words at the beginning of a name are tried."""


def first_words(name: str, count: int) -> str:
    """`P01_scan_2` -> `P01`, `P01_scan`: the beginning of a name; words end at `_`, `-`, `.` or a space.

    >>> first_words("P01_scan-2", 2)
    'P01_scan'
    """
    found = re.match(rf"[^_\-. ]+(?:[_\-. ]+[^_\-. ]+){{0,{count - 1}}}", name)
    return found[0] if found else name


def likely_words(names: Sequence[str]) -> int:
    """How many words at the beginning of the names look like a patient's number; 0 where nothing does.

    They do where they hold a digit in their last word, differ between some names, are shared by others, and something
    follows them: `P01_a`, `P01_b`, `P02_a`. What all names share (`BraTS20_001`) tells nobody apart.
    """
    for count in range(1, MOST_WORDS + 1):
        heads = [first_words(name, count) for name in names]
        groups = Counter(heads)
        shared = [head for head, n in groups.items() if n > 1]
        numbered = all(re.search(r"\d[^_\-. ]*$", head) for head in shared)
        if shared and len(groups) > 1 and numbered and not set(shared) & set(names):
            return count
    return 0


def by_first_words(found: Found, count: int | None) -> Found:
    """The cases with the beginning of their names as the patient, where `data.split.patient_words` says so.

    Raises UserError where the data names its patients already.
    """
    if count is None:
        return found
    if found.patients_known:
        raise UserError(
            "the data names its patients already", "data.split.patient_words", "take this setting out"
        )
    rows = tuple(replace(row, patient=first_words(row.case, count)) for row in found.rows)
    note = (
        f"patients are told apart by the first {count} words of the names, as data.split.patient_words says"
    )
    return replace(found, rows=rows, patients_known=True, notes=(*found.notes, note))


def require_clear_patients(cohort: Cohort) -> None:
    """Raises Question where names look like several scans of one patient and nobody has said whether they are."""
    if not cohort.doubtful_words:
        return
    together: dict[str, list[str]] = defaultdict(list)
    for row in cohort.rows:
        together[first_words(row.case, cohort.doubtful_words)].append(row.case)
    shared = {head: cases for head, cases in together.items() if len(cases) > 1}
    raise Question(
        f"{sum(map(len, shared.values()))} names look like several scans of one patient, and nothing says whose they are",
        "data",
        [f"{head}: {counted(cases)}" for head, cases in list(shared.items())[:4]],
        [
            (
                f"they are: {next(iter(shared))} is a patient, whose scans stay in one split",
                f"data.split.patient_words={cohort.doubtful_words}",
            ),
            ("they are not: every case is another patient", "data.split.by=case"),
        ],
    )


def doubtful_words(rows: Sequence[CaseRow], found: Found, by: str) -> int:
    """The words to ask about where the cases are dealt into splits, patients are not known and names may tell them."""
    given = any(row.split or row.fold is not None for row in rows)
    if given or found.patients_known or found.raw_names or by == "case":
        return 0
    return likely_words([row.case for row in rows if row.labels])
