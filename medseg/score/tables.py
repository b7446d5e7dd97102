"""From rows (one a case and class) to what scores.json holds: means with n and misses, intervals, the worst cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from medseg.metrics.case import ABSENT, INVENTED, MISSED, UNKNOWN, Row
from medseg.metrics.cost import cost_of
from medseg.metrics.statistics import bootstrap_interval, mean_with_misses
from medseg.metrics.table import MetricRow, row_of_column

ALWAYS = ("dice", "iou", "hd95_mm")
"""Means that scores.json always names, null where they were not measured."""

FACTS = ("case", "patient", "split", "class", "index", "merged", "unit", "tp", "fp", "fn", "reason")
"""Columns of a row that hold no metric."""


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """`mean`, `per_class`, `per_case`, `intervals`, `n`, `misses`, `invented`, `unions` and `worst` of a table of rows.

    Every row has `case`, `patient`, `class`, `merged`, `reason` and metric columns. The mean over classes is the mean of
    the class means, without merged classes. Values that do not exist are None.
    """
    columns = metric_columns(rows)
    classes = list(dict.fromkeys(row["class"] for row in rows))
    per_class = {name: _class_summary([r for r in rows if r["class"] == name], columns) for name in classes}
    plain = [row for row in rows if not row["merged"]]
    means = [per_class[name] for name in dict.fromkeys(row["class"] for row in plain)]
    scored = {row["case"] for row in plain if row["reason"] not in (ABSENT, UNKNOWN)}
    return {
        "mean": {**dict.fromkeys(ALWAYS), **{column: _mean(m[column] for m in means) for column in columns}},
        "intervals": {column: _interval(plain, column, metric) for column, metric in columns.items()},
        "per_class": per_class,
        "per_case": {case: _case_summary(own, columns) for case, own in _by_case(plain).items()},
        "n": len(scored),
        "misses": sum(row["reason"] == MISSED for row in plain),
        "invented": sum(row["reason"] == INVENTED for row in plain),
        "unions": [name for name in classes if name not in {row["class"] for row in plain}],
        "worst": worst_first(plain, columns),
    }


def metric_columns(rows: Iterable[Row]) -> dict[str, MetricRow]:
    """The metric columns of a table, in their order, with their rows of the metric table."""
    names = dict.fromkeys(column for row in rows for column in row if column not in FACTS)
    found = {name: row_of_column(name) for name in names}
    return {name: metric for name, metric in found.items() if metric is not None}


def worst_first(rows: Sequence[Row], columns: Mapping[str, MetricRow]) -> list[str]:
    """Case ids, the worst first by the first metric that judges (its mean over classes, misses at the worst value).

    Cases without a defined value come last, in the table's order.
    """
    judge = next(((column, metric) for column, metric in columns.items() if metric.better), None)
    if judge is None:
        return []
    column, metric = judge
    badness: dict[str, list[float]] = {}
    for row in rows:
        values = badness.setdefault(row["case"], [])
        if row.get(column) is not None:
            values.append(metric.badness(row[column]))
    defined = {case: float(np.mean(values)) for case, values in badness.items() if values}
    return [
        *sorted(defined, key=lambda case: -defined[case]),
        *(case for case in badness if case not in defined),
    ]


def cost_summary(sidecars: Iterable[Mapping[str, Any]]) -> dict[str, float | int | None]:
    """Seconds and memory of the predictions that say what they took."""
    facts = list(sidecars)
    return asdict(cost_of([f.get("seconds") for f in facts], [f.get("peak_ram_bytes") for f in facts]))


def _class_summary(rows: Sequence[Row], columns: Mapping[str, MetricRow]) -> dict[str, Any]:
    """Means of one class over its cases; n, misses and undefined cases beside them."""
    missed = [row["reason"] == MISSED for row in rows]
    out: dict[str, Any] = {}
    undefined = sum(row["reason"] in (ABSENT, UNKNOWN) for row in rows)
    for column, metric in columns.items():
        values = [None if row.get(column) is None else metric.mean_value(row[column]) for row in rows]
        out[column] = mean_with_misses(values, missed).mean
    return {
        **out,
        "n": len(rows) - undefined,
        "misses": sum(missed),
        "invented": sum(row["reason"] == INVENTED for row in rows),
        "undefined": undefined,
        "intervals": {column: _interval(rows, column, metric) for column, metric in columns.items()},
    }


def _case_summary(rows: Sequence[Row], columns: Mapping[str, MetricRow]) -> dict[str, Any]:
    """Means of one case over its classes."""
    values = {
        column: _mean(None if row.get(column) is None else metric.mean_value(row[column]) for row in rows)
        for column, metric in columns.items()
    }
    return {**values, "misses": sum(row["reason"] == MISSED for row in rows)}


def _by_case(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each case, in the table's order."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["case"], []).append(row)
    return grouped


def _interval(rows: Sequence[Row], column: str, metric: MetricRow) -> list[float] | None:
    """95 % interval of the mean over classes of the class means, patients drawn whole; [low, high] or None."""
    cases = {case: i for i, case in enumerate(dict.fromkeys(row["case"] for row in rows))}
    classes = {name: i for i, name in enumerate(dict.fromkeys(row["class"] for row in rows))}
    table = np.full((len(cases), len(classes)), np.nan)
    patient: dict[str, Any] = {}
    for row in rows:
        patient[row["case"]] = row["patient"]
        if row.get(column) is not None:
            table[cases[row["case"]], classes[row["class"]]] = metric.mean_value(row[column])
    found = bootstrap_interval(table, [patient[case] for case in cases]) if cases else None
    return None if found is None else list(found)


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
