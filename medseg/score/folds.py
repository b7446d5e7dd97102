"""The join of a cross-validation: out-of-fold scores, their spread, post-processing, and the model of all members.

It is taken as a step of its own ("join") in the folder that holds the folds. What it joins are the member folders that
are complete and were made with the same settings; when trainings run as separate jobs, the last call finds them all.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.config import Pipeline, Plan
from medseg.config_plan import load_plan
from medseg.config_types import OF_PARTS
from medseg.core.atomic import read_json, write_json
from medseg.core.errors import UserError
from medseg.core.run import Result, RunFolder
from medseg.data.folds import has_test_cases
from medseg.metrics.case import Row
from medseg.score.cases import sidecars
from medseg.score.postprocessing import choose_postprocessing
from medseg.score.reference import LABEL
from medseg.score.stage import Scored, facts_of, learnt_in_words, write_table

KEYS = ("score",)
READS: tuple[str, ...] = ()
WRITES = ("folds_table", "folds_json", "model")

Spread = dict[str, float | int | None]
"""mean, sd (n - 1 in the denominator; None for one value), low, high, n."""


def inputs(pipeline: Pipeline, folder: RunFolder) -> str:
    """What the members came to, and which of them belong to this journey."""
    ours, others = joined_members(pipeline, folder)
    facts = [settings_digest(pipeline, folder), *(member.path.name for member in others)]
    for member in ours:
        facts += [member.path.name, member.scores_json.read_text(encoding="utf-8"), _model_hash(member)]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def run(pipeline: Pipeline, folder: RunFolder) -> Result:
    """Writes the out-of-fold table, scores.json with the key `folds`, postprocessing.json and the joined model folder."""
    members, others = joined_members(pipeline, folder)
    if not members:
        raise UserError("no fold is finished yet", str(folder.path.name), "train one: --folds 0")
    first = first_seeds(members)
    facts = _scores(pipeline, first)
    facts["folds"] = {
        **spread_over(members),
        "left_out": [member.path.name for member in others],
        "in_table": [member.path.name for member in first],
    }
    chosen = _postprocessing(pipeline, folder, first)
    _write_model(folder, members, chosen, facts)
    write_json(folder.folds_json, facts)
    if not has_test_cases(folder):  # else the run's own scores are those of the test cases
        write_table(_rows(folder.folds_table), folder.scores_table, more=("fold",))
        write_json(folder.scores_json, facts)
    return Result(
        "join",
        in_words(facts, members, others),
        facts["n"],
        details={
            "mean": facts["mean"],
            "folds": facts["folds"]["over_folds"]["mean"],
            "postprocessing": chosen,
        },
    )


def settings_digest(pipeline: Pipeline, folder: RunFolder) -> str:
    """Equal digest, same experiment: what the members of one cross-validation have in common."""
    train = pipeline.train.model_copy(update={"folds": None, "seeds": 1, "checkpoint_minutes": 1.0})
    plan = _deciding(load_plan(folder.plan)) if folder.plan.exists() else ""
    score = sorted(pipeline.score.model_dump(mode="json", exclude={"pairs"}).items())
    masks = [
        getattr(pipeline.predict, name)
        for name in ("overlap", "flips", "keep_largest", "fill_holes", "precision")
    ]
    rules = [getattr(pipeline.predict, name) for name in OF_PARTS]
    masks += [rule for rule in rules if rule != "auto"]
    cases = folder.pooled.cases
    facts = [repr(pipeline.only_system), repr(train), plan, repr(masks), repr(score)]
    facts.append(hashlib.sha256(cases.read_bytes()).hexdigest() if cases.exists() else "")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _deciding(plan: Plan) -> str:
    """What of a plan decides a training; an entry that came later counts where it says something."""
    left_out = {"reasons", "estimate"} | ({"previous"} if plan.previous is None else set())
    return plan.model_dump_json(exclude=left_out)


def joined_members(pipeline: Pipeline, folder: RunFolder) -> tuple[list[RunFolder], list[RunFolder]]:
    """Finished members of this experiment, and those that were made with other settings."""
    wanted = settings_digest(pipeline, folder)
    ours, others = [], []
    for member in folder.finished_folds():
        (ours if read_json(member.member)["settings"] == wanted else others).append(member)
    return ours, others


def first_seeds(members: Iterable[RunFolder]) -> list[RunFolder]:
    """One member a fold, that with the lowest seed: each case then counts once."""
    best: dict[Any, tuple[int, RunFolder]] = {}
    for member in members:
        facts = read_json(member.member)
        if facts["fold"] not in best or facts["seed"] < best[facts["fold"]][0]:
            best[facts["fold"]] = (facts["seed"], member)
    return [member for _, member in best.values()]


def spread_of(values: Iterable[float | None]) -> Spread:
    """Mean and spread of what is defined among `values`."""
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "sd": None, "low": None, "high": None, "n": 0}
    sd = statistics.stdev(known) if len(known) > 1 else None
    return {"mean": statistics.fmean(known), "sd": sd, "low": min(known), "high": max(known), "n": len(known)}


def spread_over(members: Sequence[RunFolder]) -> dict[str, Any]:
    """`trainings`: each one's means; `over_folds`: spread over folds (seeds averaged first); `over_seeds`: the reverse.

    A seed counts in `over_seeds` when it was trained on every fold; null with fewer than two such seeds.
    """
    about = _about(members)
    trainings = []
    for member in members:
        scores = read_json(member.scores_json)
        facts = about[member.path.name]
        per_class = {name: _numbers(values) for name, values in scores["per_class"].items()}
        trainings.append(
            {"name": member.path.name, "fold": facts["fold"], "seed": facts["seed"], "n": scores["n"],
             "mean": _numbers(scores["mean"]), "per_class": per_class}
        )  # fmt: skip
    folds = list(dict.fromkeys(one["fold"] for one in trainings))
    seeds = list(dict.fromkeys(one["seed"] for one in trainings))
    whole = [s for s in seeds if sum(one["seed"] == s for one in trainings) == len(folds)]
    over_folds = _grouped([[one for one in trainings if one["fold"] == fold] for fold in folds])
    over_seeds = _grouped([[one for one in trainings if one["seed"] == seed] for seed in whole])
    return {
        "folds": folds,
        "seeds": seeds,
        "trainings": trainings,
        "over_folds": over_folds,
        "over_seeds": over_seeds if len(whole) > 1 else None,
    }


def _grouped(groups: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Spread over groups of trainings; a group counts with its own mean."""
    columns = list(dict.fromkeys(c for group in groups for one in group for c in one["mean"]))
    classes = list(dict.fromkeys(c for group in groups for one in group for c in one["per_class"]))

    def spread(pick: Any) -> Spread:
        return spread_of(spread_of(pick(one) for one in group)["mean"] for group in groups)

    return {
        "mean": {column: spread(lambda one, c=column: one["mean"].get(c)) for column in columns},
        "per_class": {
            name: {
                column: spread(lambda one, k=name, c=column: one["per_class"].get(k, {}).get(c))
                for column in columns
            }
            for name in classes
        },
    }


def _numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    """The metrics of a summary: what is no count and no list."""
    counts = ("n", "misses", "invented", "undefined")
    return {
        key: value
        for key, value in values.items()
        if key not in counts and (value is None or isinstance(value, int | float))
    }


def _about(members: Iterable[RunFolder]) -> dict[str, dict[str, Any]]:
    return {member.path.name: read_json(member.member) for member in members}


def _scores(pipeline: Pipeline, first: Sequence[RunFolder]) -> dict[str, Any]:
    """scores.json over the validation cases of all folds, each scored by the model that has not seen it."""
    joined, predicted = Scored(), {}
    folder = first[0].parent
    assert folder is not None
    for member in first:
        scores = read_json(member.scores_json)
        fold = read_json(member.member)["fold"]
        joined.rows += [{**row, "fold": fold} for row in _rows(member.scores_table)]
        joined.failed |= scores["failed"]
        joined.skipped |= scores["skipped"]
        joined.review |= scores["review"]
        joined.notes += [note for note in scores["unmatched"] if note not in joined.notes]
        predicted |= sidecars(member.predictions)
    joined.rows.sort(key=lambda row: row["case"])
    write_table(joined.rows, folder.folds_table, more=("fold",))
    facts = facts_of(pipeline, joined, predicted)
    seen = sorted({case for member in first for case in read_json(member.scores_json).get("trained_on", ())})
    # A start (train.start_from) may have learnt from them before the fold's own training.
    of = "validation cases, each by a model that has not seen it"
    return {"of": "validation cases" if seen else of, **facts, "trained_on": seen}


def _rows(path: Path) -> list[Row]:
    import pandas as pd

    table = pd.read_parquet(path)
    return [
        {str(k): v for k, v in row.items()}
        for row in table.astype(object).where(table.notna(), None).to_dict("records")
    ]


def _postprocessing(
    pipeline: Pipeline, folder: RunFolder, first: Sequence[RunFolder]
) -> list[dict[str, str]]:
    """The steps that help on the out-of-fold predictions; written down with the figures."""
    plan = load_plan(folder.plan)
    # Without a background there is nothing that removed voxels could become.
    possible = pipeline.score.reference == LABEL and (plan.background or plan.overlapping)
    if not possible or not _is_network(first[0]):
        folder.postprocessing.unlink(missing_ok=True)
        return []
    facts = choose_postprocessing(pipeline, plan, first)
    write_json(folder.postprocessing, facts)
    return list(facts["steps"])


def _write_model(
    folder: RunFolder,
    members: Sequence[RunFolder],
    steps: Sequence[Mapping[str, str]],
    facts: Mapping[str, Any],
) -> None:
    """The model folder that lists all members; a classical method's was made from all cases before."""
    if not _is_network(members[0]):
        return
    from medseg.model.ensemble import save_ensemble
    from medseg.model.facts import load_facts

    over = facts["folds"]["over_folds"]["mean"].get("dice") or {}
    scores = {"dice": facts["mean"].get("dice"), "iou": facts["mean"].get("iou"), "n": facts["n"],
              "sd_over_folds": over.get("sd")}  # fmt: skip
    save_ensemble(
        folder.model,
        dict(part for member in members for part in _networks(member)),
        postprocessing=steps,
        scores=scores,
        data_hash=str(load_facts(_networks(members[0])[0][1]).get("data_hash", "")),
    )


def _is_network(member: RunFolder) -> bool:
    """Whether a member is no classical method."""
    from medseg.model.facts import load_facts

    return load_facts(member.model)["kind"] != "classical"


def _networks(member: RunFolder) -> list[tuple[str, Path]]:
    """Name and model folder of a member's network, or of each where it is the mean of two systems."""
    from medseg.model.ensemble import member_folders
    from medseg.model.facts import load_facts

    facts = load_facts(member.model)
    if facts["kind"] != "ensemble":
        return [(member.path.name, member.model)]
    parts = member_folders(member.model, facts)
    return [(f"{member.path.name}-{name}", path) for name, path in parts.items()]


def _model_hash(member: RunFolder) -> str:
    from medseg.model.facts import load_facts

    return str(load_facts(member.model)["hash"])


def in_words(facts: Mapping[str, Any], members: Sequence[RunFolder], others: Sequence[RunFolder]) -> str:
    """The step's sentence."""
    folds = facts["folds"]
    parts = [f"{len(members)} trainings joined ({len(folds['folds'])} folds, {len(folds['seeds'])} seeds)"]
    dice = folds["over_folds"]["mean"].get("dice")
    if dice and dice["mean"] is not None:
        learnt = learnt_in_words(facts)
        parts.append(f"out-of-fold Dice {facts['mean']['dice']:.3f}{learnt}, over folds {plus_minus(dice)}")
    if folds["over_seeds"] and folds["over_seeds"]["mean"].get("dice"):
        parts.append(f"over seeds {plus_minus(folds['over_seeds']['mean']['dice'])}")
    if others:
        parts.append(f"{len(others)} made with other settings left out")
    return ", ".join(parts)


def plus_minus(spread: Mapping[str, Any], digits: int = 3) -> str:
    """`0.893 +- 0.012`; without a spread where there is only one value."""
    if spread.get("mean") is None:
        return "-"
    sd = "" if spread["sd"] is None else f" +- {spread['sd']:.{digits}f}"
    return f"{spread['mean']:.{digits}f}{sd}"
