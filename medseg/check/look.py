"""Looks at all cases of a cohort, several at a time, and says what became of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from medseg.check.cohort_facts import check_facts, mask_note, same_images
from medseg.check.examine import Examined, examine, reason_of, without_paths
from medseg.check.labels import require_equal_numbers
from medseg.config import Data
from medseg.core.errors import UserError
from medseg.core.progress import say
from medseg.core.run import Result
from medseg.data.classes import class_infos, specs_from_values
from medseg.data.rows import CaseRow, Cohort, column_name, counted
from medseg.jobs.executor import Outcome, map_cases

State = tuple[str, str]
"""(ok, failed or skipped; the reason)."""

SHOWN = 3
"""How many pairs of files are printed before the work begins."""


@dataclass(frozen=True)
class Checked:
    """A cohort that was looked at.

    cohort: rows as they go on, classes named. states: one a row. table: columns of cases.parquet, one a row.
    facts: check.json. result: counts and reasons. hint: the remedy, where all that failed have the same. masks: a
    sentence where the images look like label masks.
    """

    cohort: Cohort
    states: Sequence[State]
    table: list[dict[str, Any]]
    facts: dict[str, Any]
    result: Result
    hint: str = ""
    masks: str = ""


def check_cohort(cohort: Cohort, data: Data, training: bool, workers: int | None = None) -> Checked:
    """Shows the pairing, reads every case once, and sorts them into ok, failed, skipped; some of the ok for review.

    training: cases without a usable label cannot be used.
    """
    for line in pairing(cohort):
        say(line)
    outcomes = _look_at(cohort, data, training, workers)
    states = [_state(row, outcomes[row.case], data, training) for row in cohort.rows]
    cohort, examined = _with_found_classes(cohort, [outcomes[row.case].value for row in cohort.rows], data)
    review = _reviews(states, examined)
    result = _result(cohort, states, review)
    table = [
        {"status": status, "reason": reason, "review": review.get(row.case, ""), **(e.facts if e else {})}
        for row, (status, reason), e in zip(cohort.rows, states, examined)
    ]
    usable = [e for e, (status, _) in zip(examined, states) if e is not None and status == "ok"]
    facts = check_facts(cohort, data, usable, result)
    masks = mask_note([e for e in examined if e is not None])
    facts["notes"] = [*masks, *facts["notes"]]
    hints = {o.error.hint for o in outcomes.values() if isinstance(o.error, UserError)}
    return Checked(cohort, states, table, facts, result, hints.pop() if len(hints) == 1 else "", *masks)


def pairing(cohort: Cohort) -> list[str]:
    """What was found and what belongs together, to be read before the work begins."""
    labelled = sum(bool(row.labels) for row in cohort.rows)
    patients = f"{cohort.n_patients} patients" if cohort.patients_known else "patients not known"
    lines = [f"data     {cohort.layout}: {len(cohort.rows)} cases, {patients}, {labelled} with a label"]
    # Hashed names mean that file names may tell who it is.
    open_names = [row for row in cohort.rows if not row.case.startswith("case-")]
    for row in open_names[:SHOWN]:
        images = " + ".join(Path(c[0]).name if len(c) == 1 else f"{len(c)} slices" for c in row.images if c)
        labels = ", ".join(Path(name).name for name in row.labels.values()) or "no label"
        lines.append(f"  {row.case}: {images or 'no image'} <- {labels}")
    if len(open_names) > SHOWN:
        lines.append(f"  ... and {len(open_names) - SHOWN} more like these")
    for reason, count in Counter(reason for _, reason in cohort.left_out).most_common(8):
        lines.append(f"  left out: {count} ({reason})")
    return lines + [f"  {note}" for note in cohort.notes]


def _look_at(
    cohort: Cohort, data: Data, needs_label: bool, workers: int | None
) -> dict[str, Outcome[CaseRow, Examined]]:
    """Case -> what became of it. Every case has an outcome."""
    work: Callable[[CaseRow], Examined] = partial(
        examine, data=data, classes=cohort.classes, needs_label=needs_label
    )
    found = {
        outcome.item.case: outcome
        for outcome in map_cases(work, cohort.rows, "check", workers=workers, name=lambda row: row.case)
    }
    lost = [row.case for row in cohort.rows if row.case not in found]
    if lost:
        raise RuntimeError(f"{len(lost)} of {len(cohort.rows)} cases came back without an outcome")
    return found


def _with_found_classes(
    cohort: Cohort, examined: Sequence[Examined | None], data: Data
) -> tuple[Cohort, list[Examined | None]]:
    """The rows as they go on; classes are named by the labels' values where nothing else named them."""
    rows = tuple(row if e is None else e.row for row, e in zip(cohort.rows, examined))
    cohort = replace(cohort, rows=rows)
    values: dict[str, set[int]] = {}
    for column, found in (pair for e in examined if e and e.label for pair in e.label.counts.items()):
        values.setdefault(column, set()).update(found)
    if cohort.classes or not values:
        return cohort, list(examined)
    require_equal_numbers([e.label for e in examined if e and e.label])
    specs = specs_from_values({column: sorted(found) for column, found in values.items()}, data)
    sources = {name: (column_name(spec.column), tuple(spec.values)) for name, spec in specs.items()}
    note = f"classes found in the labels: {counted(specs, 12)}; name them under data.classes"
    cohort = replace(
        cohort,
        rows=tuple(replace(row, values=sources) for row in rows),
        classes=class_infos(specs, data.background, data.ignore),
        notes=(*cohort.notes, note),
    )
    return cohort, [e if e is None else e.with_classes(sources) for e in examined]


def _state(row: CaseRow, outcome: Outcome[CaseRow, Examined], data: Data, training: bool) -> State:
    if outcome.error is not None:
        error = outcome.error
        reason = reason_of(error) if isinstance(error, UserError) else f"cannot be read ({outcome.reason})"
        skip = data.select.irregular == "skip" and type(error).__name__ == "IrregularSeries"
        return ("skipped" if skip else "failed"), without_paths(reason, row)
    if training and not row.labels:
        if data.unlabelled == "error":
            return "failed", "no label, and data.unlabelled is error"
        return "skipped", "no label: neither trained nor scored on"
    return "ok", ""


def _reviews(states: Sequence[State], examined: Sequence[Examined | None]) -> dict[str, str]:
    usable = [e for e, (status, _) in zip(examined, states) if e is not None and status == "ok"]
    review = {e.row.case: [without_paths(reason, e.row) for reason in e.review] for e in usable}
    for case, reason in same_images([(e.row, e.facts["image_content"]) for e in usable]).items():
        review[case].append(reason)
    return {case: "; ".join(reasons) for case, reasons in review.items() if reasons}


def _result(cohort: Cohort, states: Sequence[State], review: Mapping[str, str]) -> Result:
    failed, skipped = (
        {row.case: reason for row, (status, reason) in zip(cohort.rows, states) if status == kind}
        for kind in ("failed", "skipped")
    )
    done = len(cohort.rows) - len(failed) - len(skipped)
    parts = [f"{done} of {len(cohort.rows)} cases can be used"]
    for what, count in (("failed", len(failed)), ("skipped", len(skipped)), ("to look at", len(review))):
        parts += [f"{count} {what}"] if count else []
    parts += [f"{len(cohort.left_out)} files or series left out"] if cohort.left_out else []
    return Result("check", ", ".join(parts), done, failed, skipped, dict(review))
