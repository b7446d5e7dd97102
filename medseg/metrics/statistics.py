"""Means that show their misses, intervals by patient, and paired comparisons."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError

Floats = npt.NDArray[np.float64]

DRAWS = 2000


@dataclass(frozen=True)
class Mean:
    """A mean and what stands behind it: n values, of which `misses` are structures that were not found at all (they
    count, with the metric's worst value) and `undefined` were left out since there was nothing to compare."""

    mean: float | None
    n: int
    misses: int
    undefined: int


def mean_with_misses(values: Sequence[float | None], missed: Sequence[bool]) -> Mean:
    """Mean over the defined values.

    >>> mean_with_misses([0.9, 0.0, None], [False, True, False])
    Mean(mean=0.45, n=2, misses=1, undefined=1)
    >>> mean_with_misses([None], [False])
    Mean(mean=None, n=0, misses=0, undefined=1)
    """
    defined = [value for value in values if value is not None]
    mean = float(np.mean(defined)) if defined else None
    return Mean(mean, len(defined), sum(map(bool, missed)), len(values) - len(defined))


def bootstrap_interval(
    values: npt.ArrayLike,
    patients: Sequence[Hashable],
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile interval of a mean, whole patients drawn with replacement. Efron 1979, doi:10.1214/aos/1176344552.

    values: (N,) or (N, C), NaN where undefined; the statistic is the mean over cases, then over the C columns.
    patients: the patient of each row. None with fewer than two patients, or when nothing is defined.

    >>> bootstrap_interval([0.5, 0.5, 0.5], ["a", "b", "c"])
    (0.5, 0.5)
    >>> bootstrap_interval([0.5, 0.7], ["a", "a"]) is None
    True
    """
    table = np.asarray(values, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if len(table) != len(patients):
        raise UserError(
            f"{len(table)} values of {len(patients)} patients", "score", "give one patient a value"
        )
    defined = np.asarray(~np.isnan(table).all(axis=1), dtype=np.bool_)
    table, groups = table[defined], _numbered([p for p, kept in zip(patients, defined, strict=True) if kept])
    count = int(groups.max()) + 1 if len(groups) else 0
    if count < 2:
        return None
    sums, seen = np.zeros((count, table.shape[1])), np.zeros((count, table.shape[1]))
    np.add.at(sums, groups, np.nan_to_num(table))
    np.add.at(seen, groups, ~np.isnan(table))
    drawn = _drawn(count, draws, seed)
    total, number = drawn @ sums, drawn @ seen
    by_column = np.divide(total, number, out=np.full_like(total, np.nan), where=number > 0)
    means = by_column[~np.isnan(by_column).all(axis=1)]
    low, high = np.quantile(np.nanmean(means, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """B minus A on the same patients: mean difference, its interval, the p value of a signed-rank test."""

    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    patients: int

    def sentence(self, better: str = "high", level: float = 0.05) -> str:
        """What may be said: "B is better", "A is better" or "no difference shown"."""
        if self.p_value is None or self.p_value > level:
            return "no difference shown"
        b_wins = (self.difference > 0) == (better == "high")
        return "B is better" if b_wins else "A is better"


def compare_paired(
    a: Mapping[Any, float], b: Mapping[Any, float], patients: Mapping[Any, Hashable]
) -> Comparison:
    """Compare two systems on the cases both have: differences are averaged by patient, then tested.

    a, b: case -> value; patients: case -> patient. Wilcoxon 1945, doi:10.2307/3001968, two-sided, zeros dropped; the
    p value is None where all differences are zero or fewer than two patients are left.
    """
    from scipy.stats import wilcoxon

    shared = [case for case in a if case in b]
    if not shared:
        raise UserError("the two systems have no case in common", "compare", "score both on the same cases")
    differences = np.array([b[case] - a[case] for case in shared])
    groups = _numbered([patients[case] for case in shared])
    by_patient = np.bincount(groups, weights=differences) / np.bincount(groups)
    interval = bootstrap_interval(by_patient, range(len(by_patient)))
    p_value = None
    if len(by_patient) > 1 and by_patient.any():
        p_value = float(wilcoxon(by_patient).pvalue)
    return Comparison(float(by_patient.mean()), interval, p_value, len(by_patient))


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number, step by step. Holm 1979, Scand. J. Statist. 6, 65-70.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    adjusted = [0.0] * len(order)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * float(p_values[i])))
        adjusted[int(i)] = largest
    return adjusted


@lru_cache(maxsize=8)
def _drawn(count: int, draws: int, seed: int) -> Floats:
    """(draws, count): how often each patient is drawn. The same for all classes and metrics, so drawn once."""
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    return drawn.astype(np.float64)


def _numbered(patients: Sequence[Hashable]) -> npt.NDArray[np.intp]:
    """Patients as numbers from 0, in order of appearance."""
    number = {patient: i for i, patient in enumerate(dict.fromkeys(patients))}
    return np.array([number[patient] for patient in patients], dtype=np.intp)
