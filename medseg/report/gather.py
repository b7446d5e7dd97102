"""One system's results, gathered from the files of its folder into what the page shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from medseg.config import Pipeline, Plan
from medseg.config_plan import load_plan
from medseg.core.atomic import read_json
from medseg.core.run import RunFolder
from medseg.report.curves import read_history


@dataclass
class Sheet:
    """What one system did: its plan, curves, scores, predictions, costs and pictures."""

    name: str
    folder: RunFolder
    plan: Plan | None
    history: list[dict[str, Any]]
    scores: dict[str, Any]
    rows: list[dict[str, Any]]
    predictions: dict[str, dict[str, Any]]
    steps: dict[str, dict[str, Any]]
    model: dict[str, Any]
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
    sidecars = sorted(folder.predictions.glob("*.json")) if folder.predictions.is_dir() else []
    facts = [read_json(path) for path in sidecars if not path.name.startswith(".")]
    return Sheet(
        name=pipeline.only_system.slug,
        folder=folder,
        plan=load_plan(folder.plan) if folder.plan.exists() else None,
        history=read_history(folder.history),
        scores=read_json(folder.scores_json) if folder.scores_json.exists() else {},
        rows=_rows(folder),
        predictions={f["case"]: f for f in facts if "case" in f},
        steps={**folder.root.steps_done(), **folder.steps_done()},
        model=read_json(folder.model / "model.json") if (folder.model / "model.json").exists() else {},
    )


def _rows(folder: RunFolder) -> list[dict[str, Any]]:
    if not folder.scores_table.exists():
        return []
    import pandas as pd

    table = pd.read_parquet(folder.scores_table)
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(k): v for k, v in row.items()} for row in rows]
