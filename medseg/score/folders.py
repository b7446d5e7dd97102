"""Any two folders of masks, compared: `medseg score PRED REF`. What was paired and matched is said, never guessed in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.atomic import write_json, write_text
from medseg.core.errors import UserError
from medseg.core.segmentation import Segmentation
from medseg.metrics.case import Row, Scoring, score_case
from medseg.metrics.matching import Matching, match_classes, name_key
from medseg.metrics.table import DEFAULT_METRICS, find_metric
from medseg.score.pairs import Pairing, pair_up
from medseg.score.reading import read_pair
from medseg.score.review import review_reasons
from medseg.score.tables import FACTS, metric_columns, summarise

OTHER_GRID = "resample one of the two masks onto the other's grid with nearest neighbours"

MANY = 20
"""So many cases or classes are listed in full on the terminal."""


UNLABELLED = 255
"""The value that data sets of one byte a voxel commonly leave out of loss and scores."""


@dataclass(frozen=True)
class _Case:
    """One scored pair: its rows, how its classes were matched and are called, why to look at it."""

    rows: list[Row]
    matching: Matching
    names: dict[str, str]
    reasons: list[str]


def score_folders(
    pred: Path,
    true: Path,
    classes: Sequence[str] | None = None,
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    tolerance_mm: float = 2.0,
    ignore: int | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Score the masks of `pred` against those of `true`; two files work too.

    classes: names to score; None: all that both sides have. ignore: label value of the reference that counts nowhere.
    out: where scores.json and scores.csv go. Returns what scores.json holds. Raises UserError when nothing can be
    paired, matched or compared; a single bad pair is named under "failed".
    """
    for name in metrics:
        find_metric(name)
    if not 0 <= tolerance_mm < float("inf"):
        raise UserError(
            f"a tolerance of {tolerance_mm} mm", "--tolerance-mm", "give a finite number, 0 or above"
        )
    pairing = pair_up(Path(pred), Path(true))
    scoring = Scoring(tuple(metrics), tolerance_mm, () if ignore is None else (ignore,))
    done, failed = _score_pairs(pairing, scoring)
    rows, matched, alone = _settle(done, classes)
    facts = {
        **summarise(rows),
        "reference": "label",
        "tolerance": tolerance_mm,
        "pairs": [
            {"case": case, "prediction": _names(p), "reference": _names(t)} for case, p, t in pairing.pairs
        ],
        "matching": matched,
        "doubt": foreign_values(rows),
        "not_scored": alone,
        "only_in_prediction": list(pairing.only_pred),
        "only_in_reference": list(pairing.only_true),
        "cases": {
            "done": len(done),
            "failed": len(failed),
            "skipped": len(pairing.only_pred) + len(pairing.only_true),
            "review": sum(bool(case.reasons) for case in done.values()),
        },
        "failed": failed,
        "review": {name: case.reasons for name, case in done.items() if case.reasons},
    }
    if out is not None:
        write_json(Path(out) / "scores.json", facts)
        write_text(Path(out) / "scores.csv", table_of(rows))
    return facts


def text_of(facts: Mapping[str, Any]) -> str:
    """What a person reads: the pairing, the matching, the table, the cases to look at first."""
    lines = [f"{len(facts['pairs'])} pairs of masks"]
    lines += [
        f"  {pair['case']}: {', '.join(pair['prediction'])} with {', '.join(pair['reference'])}"
        for pair in facts["pairs"][:MANY]
    ]
    if len(facts["pairs"]) > MANY:
        lines.append(f"  ... and {len(facts['pairs']) - MANY} more")
    for key, side, other in (
        ("only_in_prediction", "prediction", "reference"),
        ("only_in_reference", "reference", "prediction"),
    ):
        if facts[key]:
            lines.append(f"  {len(facts[key])} only in the {side}, no {other}: {_few(facts[key])}")
    lines += [f"  failed {case}: {why}" for case, why in facts["failed"].items()]
    lines.append("classes")
    lines += [f"  {name}: matched by {by}" for name, by in facts["matching"].items()]
    lines += [f"  {name}: {why}, not scored" for name, why in facts["not_scored"].items()]
    lines += [f"  {facts['doubt']}"] if facts["doubt"] else []
    lines += _class_table(facts)
    shown = [f"{case} ({_number(facts['per_case'][case].get('dice'))})" for case in facts["worst"][:5]]
    lines.append("worst first (Dice): " + ", ".join(shown))
    if facts["review"]:
        lines.append("look at these")
    lines += [f"  {case}: {'; '.join(reasons)}" for case, reasons in list(facts["review"].items())[:MANY]]
    return "\n".join(lines)


def table_of(rows: Sequence[Row]) -> str:
    """The rows as CSV text, an empty cell where there is no value."""
    import csv
    import io

    columns = [name for name in FACTS if name not in ("patient", "split")] + list(metric_columns(rows))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _score_pairs(pairing: Pairing, scoring: Scoring) -> tuple[dict[str, _Case], dict[str, str]]:
    """All pairs; the ones that failed with their reasons. Raises when not one could be compared."""
    from medseg.jobs.executor import map_cases

    def work(pair: tuple[str, Mapping[str, Path], Mapping[str, Path]]) -> _Case:
        name, p, t = pair
        pred, true = read_pair(p, t, scoring.ignore)
        matching = match_classes(pred.classes, true.classes)
        every = (*matching.matches, *matching.pred_alone, *matching.true_alone)
        rows = score_case(pred, true, replace(scoring, matches=every), f"case {name}")
        facts = {"case": name, "patient": name, "split": ""}
        voxels = {info.name: int(np.count_nonzero(pred.mask(i))) for i, info in enumerate(pred.classes)}
        names = _own_names(pred, true, matching)
        return _Case([facts | row for row in rows], matching, names, review_reasons({"voxels": voxels}))

    done, errors = {}, {}
    for outcome in map_cases(work, pairing.pairs, "score", name=lambda pair: pair[0]):
        if outcome.value is None:
            errors[outcome.item[0]] = outcome
        else:
            done[outcome.item[0]] = outcome.value
    if not done:
        raise _none_compared([errors[case] for case in sorted(errors)])
    return dict(sorted(done.items())), {case: outcome.reason for case, outcome in sorted(errors.items())}


def _none_compared(outcomes: Sequence[Any]) -> BaseException:
    """The first case's error, with the number of the others and a remedy that holds for two folders."""
    error = outcomes[0].error
    if not isinstance(error, UserError):
        return error or UserError("nothing could be compared")
    hint = OTHER_GRID if "data.grid" in error.hint else error.hint
    more = (
        [f"none of the {len(outcomes)} pairs can be compared; this is the first"] if len(outcomes) > 1 else []
    )
    return UserError(error.what, error.where, hint, (*error.faults, *more))


def foreign_values(rows: Sequence[Row]) -> str:
    """A sentence where the two sides hold numbers that the other never has, "" where they do not.

    Bare label maps are matched by number; another numbering looks like a prediction that is wrong everywhere.
    """
    ours, theirs = (
        {row["class"] for row in rows if not row["merged"] and (row["tp"] or 0) + (row[other] or 0) > 0}
        for other in ("fp", "fn")
    )
    if theirs - ours == {f"class {UNLABELLED}"}:
        return (
            f"{UNLABELLED} stands in references alone: if it marks what nobody labelled, --ignore {UNLABELLED} leaves "
            "it out; now it counts as missed, and what is drawn there as wrong"
        )
    if not ours - theirs or not theirs - ours:
        return ""
    return (
        f"the numbering may differ: {', '.join(sorted(ours - theirs))} in no reference,"
        f" {', '.join(sorted(theirs - ours))} in no prediction"
    )


def _settle(
    done: Mapping[str, _Case], wanted: Sequence[str] | None
) -> tuple[list[Row], dict[str, str], dict[str, str]]:
    """Rows to keep, class -> matched by what, class -> why it is not scored.

    A class counts when some case has it on both sides, or when it was asked for: in a case where one side lacks it
    it is then missed or invented, never left out.
    """
    names = {own: name for case in done.values() for own, name in case.names.items()}
    matched = {m.name: str(m.by) for case in done.values() for m in case.matching.matches}
    alone = {
        name: f"only in the {side}"
        for case in done.values()
        for side, found in (("prediction", case.matching.only_pred), ("reference", case.matching.only_true))
        for name in found
        if names.get(name, name) not in matched
    }
    if wanted is not None:
        matched, alone = _asked_for(wanted, matched, alone)
    if not matched:
        listed = "; ".join(f"{name}: {why}" for name, why in alone.items()) or "both are empty"
        raise UserError("the two label sets share no class", "score", listed)
    rows = [
        row | {"class": names.get(row["class"], row["class"])} for case in done.values() for row in case.rows
    ]
    return [row for row in rows if row["class"] in matched], matched, alone


def _asked_for(
    wanted: Sequence[str], matched: Mapping[str, str], alone: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The classes that were asked for among matched and unmatched ones; UserError for a name that nobody has."""
    keys = {name_key(name): name for name in wanted}
    have = {name_key(name) for name in (*matched, *alone)}
    unknown = [name for key, name in keys.items() if key not in have]
    if unknown:
        every = ", ".join([*matched, *alone])
        raise UserError(f"no class named {', '.join(unknown)}", "--classes", f"classes: {every}")
    chosen = {name: by for name, by in matched.items() if name_key(name) in keys}
    chosen |= {name: "nothing" for name in alone if name_key(name) in keys}
    return chosen, {name: why for name, why in alone.items() if name_key(name) not in keys}


def _own_names(pred: Segmentation, true: Segmentation, matching: Matching) -> dict[str, str]:
    """How both sides call a matched class -> the name of its rows; a name that means two classes is left out."""
    found: dict[str, str] = {}
    for match in matching.matches:
        for mask, position in ((pred, match.pred), (true, match.true)):
            if position is not None:
                found.setdefault(mask.classes[position].name, match.name)
    rows = {match.name for match in matching.matches}
    return {own: name for own, name in found.items() if own == name or own not in rows}


def _class_table(facts: Mapping[str, Any]) -> list[str]:
    """Class means in columns with n and misses, and under them the interval of the mean over classes."""
    columns = [name for name, value in facts["mean"].items() if value is not None]
    rows = [["class", *columns, "n", "misses"]]
    for name, values in [*facts["per_class"].items(), ("mean", {**facts["mean"], **facts})]:
        cells = [_number(values.get(column)) for column in columns]
        rows.append([name, *cells, str(values["n"]), str(values["misses"])])
    intervals = [facts["intervals"].get(column) for column in columns]
    if any(intervals):
        spans = ["-" if span is None else f"{span[0]:.4g} to {span[1]:.4g}" for span in intervals]
        rows.append(["95 % by case", *spans, "", ""])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return ", ".join(names[:MANY]) + more


def _names(files: Mapping[str, Path]) -> list[str]:
    return [path.name for path in files.values()]
