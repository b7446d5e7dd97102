"""One system's results, gathered from the files of its folder into what the page shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.config import Pipeline, Plan
from medseg.config_plan import load_plan
from medseg.core.atomic import read_json
from medseg.core.run import RunFolder
from medseg.data.folds import has_test_cases
from medseg.report.curves import read_history
from medseg.score.cases import sidecars
from medseg.score.folds import first_seeds, joined_members


@dataclass
class Sheet:
    """What one system did: its plan, curves, scores, predictions, costs and pictures.

    places: case -> folder of its masks. trainings: name -> history of each training of a cross-validation.
    """

    name: str
    folder: RunFolder
    plan: Plan | None
    history: list[dict[str, Any]]
    scores: dict[str, Any]
    rows: list[dict[str, Any]]
    predictions: dict[str, dict[str, Any]]
    steps: dict[str, dict[str, Any]]
    model: dict[str, Any]
    places: dict[str, Path] = field(default_factory=dict)
    trainings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    postprocessing: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)

    @property
    def review(self) -> dict[str, list[str]]:
        """Case -> why a person should look at it first."""
        found = {
            case: list(facts.get("flags", []))
            for case, facts in self.predictions.items()
            if facts.get("flags")
        }
        for case, reasons in self.scores.get("review", {}).items():
            listed = [reasons] if isinstance(reasons, str) else list(reasons)
            found[case] = list(dict.fromkeys([*found.get(case, []), *listed]))
        return found

    def shown(self, count: int) -> list[str]:
        """The cases with pictures: flagged ones and the worst scored ones first, then in order."""
        order = [*self.scores.get("worst", []), *self.review, *self.predictions]
        return [case for case in dict.fromkeys(order) if case in self.predictions][:count]

    def of_case(self, case: str) -> list[dict[str, Any]]:
        """The score rows of one case, one a class."""
        return [row for row in self.rows if row.get("case") == case]


def gather(pipeline: Pipeline, folder: RunFolder) -> Sheet:
    """Reads what is there; what a journey did not produce stays empty."""
    members = joined_members(pipeline, folder)[0] if pipeline.train.several else []
    own = not members or has_test_cases(folder)
    predictions, places = {}, {}
    for place in [folder.predictions] if own else [m.predictions for m in first_seeds(members)]:
        for case, facts in sidecars(place).items():
            predictions[case], places[case] = facts, place
    return Sheet(
        name=pipeline.only_system.slug,
        folder=folder,
        plan=load_plan(folder.plan) if folder.plan.exists() else None,
        history=read_history((first_seeds(members)[0] if members else folder).history),
        scores=read_json(folder.scores_json) if folder.scores_json.exists() else {},
        rows=_rows(folder),
        predictions=dict(sorted(predictions.items())),
        steps=_steps(folder, members),
        model=read_json(folder.model / "model.json") if (folder.model / "model.json").exists() else {},
        places=places,
        trainings={member.path.name: read_history(member.history) for member in members},
        postprocessing=read_json(folder.postprocessing) if members and folder.postprocessing.exists() else {},
    )


def _steps(folder: RunFolder, members: Sequence[RunFolder]) -> dict[str, dict[str, Any]]:
    """Step -> what it cost and what became of its cases; steps of trainings carry the training's name."""
    own = {f"{m.path.name} {step}": facts for m in members for step, facts in m.steps_done().items()}
    return {**folder.root.steps_done(), **folder.steps_done(), **own}


def _rows(folder: RunFolder) -> list[dict[str, Any]]:
    if not folder.scores_table.exists():
        return []
    import pandas as pd

    table = pd.read_parquet(folder.scores_table)
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(k): v for k, v in row.items()} for row in rows]
