"""Several systems on the same cases: paired differences by patient, with intervals and adjusted p values."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from medseg.core.errors import UserError
from medseg.metrics.statistics import compare_paired, holm
from medseg.metrics.table import row_of_column


def compare_systems(tables: Mapping[str, Path], column: str = "dice") -> list[dict[str, Any]]:
    """Every pair of systems by one metric: system -> its scores.parquet.

    Returns rows {a, b, column, difference (b - a), interval, p_value, p_adjusted (Holm), patients, cases, sentence}; a
    case's value is its mean over the classes that both systems have scored. "no difference shown" is a result.
    """
    metric = row_of_column(column)
    if metric is None or metric.better is None:
        raise UserError(
            f"{column!r} cannot rank systems", "compare", "take a metric that has a better direction"
        )
    values = {system: values_by_class(path, column, metric.mean_value) for system, path in tables.items()}
    out: list[dict[str, Any]] = []
    for (a, ours), (b, theirs) in combinations(values.items(), 2):
        shared = ours.keys() & theirs.keys()
        left, right = (_by_case({key: side[key] for key in shared}) for side in (ours, theirs))
        patients = {case: patient for case, patient, _ in shared}
        result = compare_paired(left, right, patients)
        facts = {"difference": result.difference, "interval": result.interval, "p_value": result.p_value}
        out.append(
            {"a": a, "b": b, "column": column, **facts, "patients": result.patients, "cases": len(left)}
        )
    tested = [row for row in out if row["p_value"] is not None]
    for row, adjusted in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
        row["p_adjusted"] = adjusted
    for row in out:
        row.setdefault("p_adjusted", None)
        row["sentence"] = _sentence(row, metric.better)
    return out


def _sentence(row: Mapping[str, Any], better: str) -> str:
    if row["p_adjusted"] is None or row["p_adjusted"] > 0.05:
        return "no difference shown"
    winner = row["b"] if (row["difference"] > 0) == (better == "high") else row["a"]
    return f"{winner} is better"


def values_by_class(path: Path, column: str, mean_value: Any) -> dict[tuple[str, str, str], float]:
    """(case, patient, class) -> what a mean takes of the value, unions left out."""
    import pandas as pd

    if not path.exists():
        raise UserError("no such table of scores", str(path), "score the run first: medseg score RUN")
    table = pd.read_parquet(path)
    if column not in table:
        raise UserError(f"has no column {column!r}", str(path), "ask for the metric under score.metrics")
    kept = table[~table["merged"].astype(bool) & table[column].notna()]
    keys = zip(kept["case"], kept["patient"], kept["class"], strict=True)
    return {key: float(mean_value(value)) for key, value in zip(keys, kept[column], strict=True)}


def _by_case(values: Mapping[tuple[str, str, str], float]) -> dict[str, float]:
    """Case -> mean over its classes."""
    grouped: dict[str, list[float]] = {}
    for (case, _, _), value in sorted(values.items()):
        grouped.setdefault(case, []).append(value)
    return {case: sum(found) / len(found) for case, found in grouped.items()}
