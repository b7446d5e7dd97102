"""The page: one HTML file with everything inside it, readable on a telephone."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import medseg
from medseg.config import Pipeline
from medseg.core.atomic import read_json
from medseg.core.progress import duration
from medseg.core.run import RunFolder
from medseg.report.curves import draw_curves
from medseg.report.gather import Sheet
from medseg.report.methods import ONLY_PEOPLE_KNOW, methods_text
from medseg.score.folds import plus_minus

COLUMNS = {
    "dice": ("Dice", 3), "iou": ("IoU", 3), "hd95_mm": ("HD95 mm", 1), "hd95_px": ("HD95 px", 1), "nsd": ("Surface Dice", 3),
    "volume_error_percent": ("Volume error %", 1), "volume_error_ml": ("Volume error ml", 1), "volume_ml": ("Volume ml", 0),
    "assd_mm": ("ASSD mm", 2), "precision": ("Precision", 3), "recall": ("Recall", 3), "sensitivity": ("Sensitivity", 3),
}  # fmt: skip


def render(pipeline: Pipeline, folder: RunFolder, sheets: list[Sheet]) -> str:
    """The page as text. Everything that comes from data is escaped."""
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True), trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "number": number,
        "spread": plus_minus_of,
        "duration": duration,
        "picture": _embedded,
    }
    check = read_json(folder.check_json) if folder.check_json.exists() else {}
    split = _split_counts(folder)
    return environment.get_template("page.html.j2").render(
        pipeline=pipeline, sheets=sheets, check=check, split=split, version=medseg.__version__,
        title=pipeline.report.title or pipeline.name.replace("_", " "), made=time.strftime("%Y-%m-%d %H:%M"),
        curves=draw_curves(_histories(sheets)), columns=_columns(pipeline, sheets), headings=COLUMNS,
        methods=[methods_text(pipeline, s, split, medseg.__version__) for s in sheets], people=ONLY_PEOPLE_KNOW,
        colours=_colours(sheets), failed=_failed(folder, sheets), cost=_cost(sheets), comparisons=_comparisons(sheets),
        choice=read_json(folder.choice) if len(sheets) > 1 and folder.choice.exists() and sheets[0].trainings else {},
    )  # fmt: skip


def _histories(sheets: list[Sheet]) -> dict[str, list[dict[str, Any]]]:
    """One curve a system, or one a training where there are several."""
    several = len(sheets) > 1
    found: dict[str, list[dict[str, Any]]] = {}
    for sheet in sheets:
        ones = sheet.trainings or {"": sheet.history}
        for name, history in ones.items():
            words = [sheet.name] * (several or not name) + [name] * bool(name)
            found[" ".join(words)] = history
    return found


def plus_minus_of(spread: dict[str, Any] | None, column: str = "dice") -> str:
    """Mean and spread over folds or seeds as the column shows it."""
    digits = COLUMNS.get(column, ("", 3))[1]
    return plus_minus(spread, digits).replace("+-", "±") if spread else "–"


def number(value: Any, column: str = "dice") -> str:
    """A figure as the column shows it; what is absent is a dash."""
    if value is None or isinstance(value, str):
        return value or "–"
    return f"{value:,.{COLUMNS.get(column, ('', 3))[1]}f}"


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _columns(pipeline: Pipeline, sheets: list[Sheet]) -> list[str]:
    """The metrics that were asked for, as far as a score row has them."""
    present = {key for sheet in sheets for row in sheet.rows for key in row}
    wanted = [*pipeline.score.metrics, "hd95_px", "volume_ml"]
    return [key for key in dict.fromkeys(wanted) if key in present and key in COLUMNS]


def _split_counts(folder: RunFolder) -> dict[str, int]:
    """Cases that took part, by split; what failed the check or was skipped is counted apart."""
    if not folder.cases.exists():
        return {}
    import pandas as pd

    table = pd.read_parquet(folder.cases)
    names = {"train": "for training", "val": "for validation", "test": "held out", "": "without a split"}
    used = table["status"] == "ok"
    counts = table["split"][used].fillna("").value_counts()
    apart = {"not used": int((~used).sum())} if not used.all() else {}
    return {names.get(str(k), str(k)): int(n) for k, n in counts.items()} | apart


def _colours(sheets: list[Sheet]) -> dict[str, str]:
    plan = next((s.plan for s in sheets if s.plan), None)
    return {c["name"]: "#{:02x}{:02x}{:02x}".format(*c["colour"]) for c in (plan.classes if plan else [])}


def _failed(folder: RunFolder, sheets: list[Sheet]) -> list[tuple[str, str, str, str]]:
    """Step, case, state, reason of everything that did not come through."""
    rows = []
    for sheet in sheets:
        for step, facts in sheet.steps.items():
            for state in ("failed", "skipped"):
                rows += [
                    (step, case, state, reason) for case, reason in facts["result"].get(state, {}).items()
                ]
    return list(dict.fromkeys(rows))


def _cost(sheets: list[Sheet]) -> list[tuple[str, str, str, str]]:
    """System, step, time, peak memory."""
    rows = []
    for sheet in sheets:
        for step, facts in sheet.steps.items():
            rows.append(
                (sheet.name, step, duration(facts["seconds"]), f"{facts['peak_ram_bytes'] / 1e9:.2f} GB")
            )
    return list(dict.fromkeys(rows))


def _comparisons(sheets: list[Sheet]) -> list[dict[str, Any]]:
    """Paired differences of every two systems, where several were scored."""
    tables = {sheet.name: sheet.folder.scores_table for sheet in sheets if sheet.scores.get("per_class")}
    if len(tables) < 2:
        return []
    from medseg.score.compare import compare_systems

    return compare_systems(tables)
