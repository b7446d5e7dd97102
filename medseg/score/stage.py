"""The step score: every prediction against its reference, scores.parquet and scores.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medseg.config import Pipeline, Plan
from medseg.config_plan import load_plan
from medseg.core.atomic import atomic_path, read_json, write_json
from medseg.core.errors import UserError, did_you_mean
from medseg.core.run import Result, RunFolder
from medseg.core.segmentation import ClassInfo
from medseg.metrics.case import Row, Scoring
from medseg.metrics.matching import match_classes
from medseg.metrics.table import find_metric
from medseg.score.cases import read_prediction, score_case, sidecars
from medseg.score.reference import LABEL, reference_of, require_reference
from medseg.score.review import Expected, review_reasons
from medseg.score.tables import FACTS, cost_summary, metric_columns, summarise

KEYS = ("data", "score")
READS = ("cases", "plan", "predictions")
WRITES = ("scores_table", "scores_json")


def inputs(pipeline: Pipeline, folder: RunFolder) -> str:
    """What stands beside the scores: those of a cross-validation."""
    beside = pipeline.train.several and folder.folds_json.exists()
    return folder.folds_json.read_text(encoding="utf-8") if beside else ""


@dataclass
class Scored:
    """What the cases of a run came to."""

    rows: list[Row] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    review: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run(pipeline: Pipeline, folder: RunFolder) -> Result:
    """Score every prediction of a run; a case that cannot be scored is named and never stops the others."""
    from medseg.data.cohort import load_cohort

    plan = load_plan(folder.plan)
    classes = tuple(ClassInfo.from_json(facts) for facts in plan.classes)
    check_settings(pipeline, classes, plan)
    cohort, predicted = load_cohort(folder), sidecars(folder.predictions)
    scored = _score_all(pipeline, folder, plan, {row.case: row for row in cohort.rows}, predicted)
    scored.failed |= {case: "no prediction: " + why for case, why in _failed_before(folder).items()}
    for case, facts in predicted.items():
        reasons = facts["flags"] if "flags" in facts else review_reasons(facts, expected_of(plan))
        if reasons:
            scored.review[case] = list(reasons)
    facts = facts_of(pipeline, scored, predicted)
    facts["trained_on"] = sorted(_trained_on(pipeline, folder, scored.rows))
    if pipeline.train.several and folder.folds_json.exists():  # the test cases of a cross-validated run
        facts["folds"] = read_json(folder.folds_json)["folds"]
    write_table(scored.rows, folder.scores_table)
    write_json(folder.scores_json, facts)
    done = facts["cases"]["done"]
    reviews = {case: "; ".join(reasons) for case, reasons in scored.review.items()}
    return Result(
        "score", _line(facts), done, scored.failed, scored.skipped, reviews, {"mean": facts["mean"]}
    )


def check_settings(pipeline: Pipeline, classes: Sequence[ClassInfo], plan: Plan) -> None:
    """Refuse metrics, references and unions that do not exist, with the nearest names."""
    for name in pipeline.score.metrics:
        find_metric(name)
    require_reference(pipeline.score.reference, plan.dims)
    names = [info.name for info in classes]
    for union, parts in pipeline.score.merge.items():
        for part in parts:
            if part not in names:
                raise UserError(
                    f"the union {union!r} has a part {part!r} that is no class{did_you_mean(part, names)}",
                    f"score.merge.{union}",
                    "classes: " + ", ".join(names),
                )


def expected_of(plan: Plan) -> Expected:
    """What a plan says about volumes: their range, and which classes every training case had."""
    ranges = {name: pair for name, pair in plan.volume_ml.items() if len(pair) == 2}
    return Expected(ranges, frozenset(name for name, (low, _) in ranges.items() if low > 0))


def scoring_of(pipeline: Pipeline, classes: Sequence[ClassInfo], known: Sequence[str] | None) -> Scoring:
    """How the cases of a run are scored."""
    ignore = [] if pipeline.data.ignore is None else [pipeline.data.ignore]
    if pipeline.data.background is None and 0 not in [info.index for info in classes]:
        ignore.append(0)  # every pixel has a class, so 0 can only mean that nobody said which
    return Scoring(
        metrics=tuple(pipeline.score.metrics),
        tolerance=pipeline.score.tolerance_mm,
        ignore=tuple(ignore) if pipeline.score.reference == LABEL else (),
        known=None if known is None or pipeline.score.reference != LABEL else frozenset(known),
        merge=pipeline.score.merge,
    )


def _score_all(
    pipeline: Pipeline,
    folder: RunFolder,
    plan: Plan,
    cases: Mapping[str, Any],
    predicted: Mapping[str, Mapping[str, Any]],
) -> Scored:
    """Rows of all predicted cases that have a reference, in the order of their names."""
    from medseg.data.cohort import open_case
    from medseg.jobs.executor import map_cases

    classes = tuple(ClassInfo.from_json(facts) for facts in plan.classes)
    scored, found = Scored(), {}
    chosen = []
    for case in predicted:
        if case not in cases:
            scored.skipped[case] = "predicted, but not among the cases of this run"
        elif pipeline.score.reference == LABEL and not cases[case].labels:
            scored.skipped[case] = "has no label to be compared with"
        else:
            chosen.append(case)

    def work(case: str) -> tuple[list[Row], list[str]]:
        row = cases[case]
        truth = reference_of(open_case(row, pipeline.data, classes), pipeline.score.reference)
        mask = read_prediction(folder.predictions, predicted[case], classes, plan.overlapping, truth.geometry)
        matching = match_classes(mask.classes, truth.classes)
        known = truth.provenance.get("known", row.known)
        scoring = replace(scoring_of(pipeline, classes, known), matches=matching.matches)
        if pipeline.score.reference == LABEL:
            # formats that leave out empty classes: what the label has and the mask lacks was missed
            scoring = replace(scoring, matches=(*matching.matches, *matching.true_alone))
        rows = score_case(mask, truth, scoring, f"case {case}")
        facts = {"case": case, "patient": row.patient, "split": row.split}
        unmatched = [*matching.only_pred, *matching.only_true] if pipeline.score.reference != LABEL else []
        return [facts | one for one in rows], unmatched

    for outcome in map_cases(work, chosen, "score", workers=pipeline.compute.workers):
        if outcome.value is None:
            scored.failed[outcome.item] = outcome.reason
        else:
            found[outcome.item], unmatched = outcome.value
            scored.notes += [name for name in unmatched if name not in scored.notes]
    scored.rows = [row for case in sorted(found) for row in found[case]]
    return scored


def _trained_on(pipeline: Pipeline, folder: RunFolder, rows: Sequence[Row]) -> set[str]:
    """Cases that the model of this run has learnt from: their scores say nothing about new ones.

    By the images that its folder names, those of the model it started from among them, and by the split.
    """
    from medseg.model.facts import load_facts
    from medseg.model.learnt import image_keys, learnt_by

    if not (folder.model / "model.json").is_file():
        return set()
    facts, learnt, keys = load_facts(folder.model), learnt_by(folder.model).images, image_keys(folder)
    found = {row["case"] for row in rows if keys.get(row["case"]) in learnt}
    untaught = facts["kind"] == "classical" and not facts.get("training")
    if pipeline.predict.model is not None or untaught:
        return found
    return found | {row["case"] for row in rows if row["split"] == "train"}


def _failed_before(folder: RunFolder) -> dict[str, str]:
    """Cases whose prediction failed: they have no score, and are counted."""
    return dict(folder.steps_done().get("predict", {}).get("result", {}).get("failed", {}))


def facts_of(
    pipeline: Pipeline, scored: Scored, predicted: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """What scores.json holds."""
    summary = summarise(scored.rows)
    return {
        **summary,
        "reference": pipeline.score.reference,
        "tolerance": pipeline.score.tolerance_mm,
        "columns": {
            column: {"metric": metric.name, "better": metric.better}
            for column, metric in metric_columns(scored.rows).items()
        },
        "unmatched": scored.notes,
        "cost": cost_summary(predicted.values()),
        "cases": {
            "done": len({row["case"] for row in scored.rows}),
            "failed": len(scored.failed),
            "skipped": len(scored.skipped),
            "review": len(scored.review),
        },
        "failed": scored.failed,
        "skipped": scored.skipped,
        "review": scored.review,
    }


def _line(facts: Mapping[str, Any]) -> str:
    """The step's sentence."""
    done, dice = facts["cases"]["done"], facts["mean"].get("dice")
    if not done:
        return "nothing to score: no predicted case has a reference"
    against = "" if facts["reference"] == LABEL else f" against {facts['reference']} (agreement, not truth)"
    interval = facts["intervals"].get("dice")
    spread = "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
    mean = "" if dice is None else f": mean Dice {dice:.3f}{spread}"
    missed = f", {facts['misses']} missed structures" if facts["misses"] else ""
    return f"{done} cases scored{learnt_in_words(facts)}{against}{mean}{missed}, {facts['cases']['review']} to look at"


def learnt_in_words(facts: Mapping[str, Any]) -> str:
    """` (the model has learnt from N of them: ..)`, or nothing."""
    learnt = len(facts.get("trained_on", ()))
    return f" (the model has learnt from {learnt} of them: no measure of new cases)" if learnt else ""


def write_table(rows: Sequence[Row], path: Path, more: Sequence[str] = ()) -> None:
    """scores.parquet: one row a case and class; `more` names whole-numbered columns that the rows have besides."""
    import pandas as pd

    columns = [*FACTS, *more, *metric_columns(rows)]
    frame = pd.DataFrame.from_records(
        [{name: row.get(name) for name in columns} for row in rows], columns=columns
    )
    for name in ("index", "tp", "fp", "fn", *more):
        frame[name] = frame[name].astype("Int64")
    for name in columns[len(FACTS) + len(more) :]:
        frame[name] = frame[name].astype("float64")
    with atomic_path(path) as part:
        frame.to_parquet(part, index=False)
