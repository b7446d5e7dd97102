"""The best of several systems, by mean out-of-fold Dice; what is as good and cheaper wins.

nnU-Net's rule (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z) is the highest mean Dice over the merged folds,
post-processing left aside. Here systems within `TIE` of the best count as equally good, and the one that took the
fewest seconds is taken. The mean of two systems (`score.pairs`) counts with the seconds of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from medseg.config import Pipeline
from medseg.core.atomic import read_json, write_json
from medseg.core.errors import UserError
from medseg.core.run import Result, RunFolder
from medseg.metrics.table import row_of_column
from medseg.score.cases import sidecars
from medseg.score.compare import compare_systems, values_by_class

KEYS = ("score",)
READS: tuple[str, ...] = ()
WRITES = ("choice",)

TIE = 0.001
"""Mean Dice closer than this to the best is a tie: the third digit is what tables show."""


JOINT = "+"
"""Between the names of two systems in that of their mean."""


@dataclass(frozen=True)
class Candidate:
    """One system's table of scores, and the seconds that its trainings and predictions took."""

    name: str
    table: Path
    seconds: float
    spread_over_folds: Mapping[str, Any] | None = None


def inputs(pipeline: Pipeline, folder: RunFolder) -> str:
    """What the systems came to."""
    names = [*(system.slug for system in pipeline.systems), *(name for name, _, _ in pairs_of(pipeline))]
    places = (folder.system(name).folds_json for name in names)
    return "\n".join(path.read_text(encoding="utf-8") if path.exists() else "absent" for path in places)


def run(pipeline: Pipeline, folder: RunFolder) -> Result:
    """Writes choice.json: which system of the run is taken, with the figures of all."""
    singles = {s.slug: candidate_of(s.slug, folder.system(s.slug)) for s in pipeline.systems}
    pairs = [
        candidate_of_pair(name, folder.system(name), singles[first].seconds + singles[second].seconds)
        for name, first, second in pairs_of(pipeline)
        if folder.system(name).folds_json.exists()
    ]
    facts = choose([*singles.values(), *pairs])
    write_json(folder.choice, facts)
    return Result("choose", facts["sentence"], details={"chosen": facts["chosen"]})


def pairs_of(pipeline: Pipeline) -> list[tuple[str, str, str]]:
    """(name of the pair, first system, second system) of each two systems, where pairs are asked for."""
    if not pipeline.score.pairs:
        return []
    slugs = [system.slug for system in pipeline.systems]
    return [(f"{first}{JOINT}{second}", first, second) for first, second in combinations(slugs, 2)]


def candidate_of_pair(name: str, folder: RunFolder, seconds: float) -> Candidate:
    """The mean of two systems. seconds: of both systems, without which there would be no mean."""
    own = candidate_of(name, folder)
    return replace(own, seconds=own.seconds + seconds)


def candidates_of(run: Path) -> list[Candidate]:
    """The systems of a run folder: one, or each of a comparison. Raises UserError for a folder without scores."""
    systems = sorted(path.name for path in (run / "systems").glob("*") if path.is_dir())
    if systems:
        found = {name: candidate_of(f"{run.name}/{name}", RunFolder(run).system(name)) for name in systems}
        for name in systems:
            parts = [part for part in name.split(JOINT) if JOINT in name and part in found]
            found[name] = replace(
                found[name], seconds=found[name].seconds + sum(found[part].seconds for part in parts)
            )
        return list(found.values())
    return [candidate_of(run.name, RunFolder(run))]


def candidate_of(name: str, folder: RunFolder) -> Candidate:
    """A system by its folder: the out-of-fold table where it was cross-validated, else its scores."""
    table = folder.folds_table if folder.folds_table.exists() else folder.scores_table
    if not table.exists():
        raise UserError("has no scores yet", name, "finish the run: medseg run PIPELINE --out RUN")
    spread = None
    if folder.folds_json.exists():
        spread = read_json(folder.folds_json)["folds"]["over_folds"]["mean"].get("dice")
    places = folder.finished_folds() if folder.folds_table.exists() else [folder]
    return Candidate(name, table, sum(_seconds(place) for place in places), spread)


def _seconds(folder: RunFolder) -> float:
    """Seconds of training and of all predictions; both count over interruptions."""
    step = folder.steps_done().get("train", {})
    details = step.get("result", {}).get("details", {})
    train = float(details.get("training_seconds") or step.get("seconds") or 0.0)
    return train + sum(float(facts.get("seconds") or 0.0) for facts in sidecars(folder.predictions).values())


def choose(candidates: Sequence[Candidate]) -> dict[str, Any]:
    """`chosen`, `ties`, `candidates` (best first) and paired `differences`, on the cases that all have scored.

    Raises UserError when fewer than two are given, names repeat, or no case is shared.
    """
    names = [one.name for one in candidates]
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"got {', '.join(names) or 'nothing'}", "compare", "give two or more different runs")
    metric = row_of_column("dice")
    assert metric is not None
    values = {one.name: values_by_class(one.table, "dice", metric.mean_value) for one in candidates}
    shared = set.intersection(*(set(found) for found in values.values()))
    if not shared:
        raise UserError("no case and class was scored by all", "compare", "compare runs on the same cases")
    rows = [_row(one, {key: values[one.name][key] for key in shared}) for one in candidates]
    rows.sort(key=lambda row: -row["dice"])
    ties = [row for row in rows if row["dice"] > rows[0]["dice"] - TIE]
    chosen = min(ties, key=lambda row: row["seconds"])
    left_out = {one.name: len(values[one.name]) - len(shared) for one in candidates}
    return {
        "rule": f"highest mean out-of-fold Dice; within {TIE} of it the fewest seconds",
        "chosen": chosen["system"],
        "ties": [row["system"] for row in ties],
        "candidates": rows,
        "differences": compare_systems({one.name: one.table for one in candidates}),
        "not_shared": {name: count for name, count in left_out.items() if count},
        "sentence": _sentence(chosen, rows, ties),
    }


def _row(one: Candidate, values: Mapping[tuple[str, str, str], float]) -> dict[str, Any]:
    """Mean over classes of the class means; spread over folds; cases; seconds."""
    classes: dict[str, list[float]] = {}
    for (_, _, name), value in sorted(values.items()):
        classes.setdefault(name, []).append(value)
    means = {name: sum(found) / len(found) for name, found in classes.items()}
    spread = one.spread_over_folds or {}
    return {
        "system": one.name,
        "dice": sum(means.values()) / len(means),
        "per_class": means,
        "sd_over_folds": spread.get("sd"),
        "folds": spread.get("n", 0),
        "n": len({case for case, _, _ in values}),
        "seconds": round(one.seconds, 1),
    }


def _sentence(chosen: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], ties: Sequence[Any]) -> str:
    sd = "" if chosen["sd_over_folds"] is None else f" +- {chosen['sd_over_folds']:.3f} over folds"
    why = f"; as good as {len(ties) - 1} other and the cheapest" if len(ties) > 1 else ""
    return (
        f"{chosen['system']} of {len(rows)}: mean Dice {chosen['dice']:.3f}{sd}, {chosen['n']} cases, "
        f"{chosen['seconds']:.0f} s{why}"
    )
