"""Means, intervals and comparisons: against scipy, against chance, and that a miss never helps."""

import numpy as np
import pytest
from scipy import stats

from medseg.core.errors import UserError
from medseg.metrics.cost import cost_of
from medseg.metrics.statistics import bootstrap_interval, compare_paired, holm, mean_with_misses
from medseg.metrics.table import METRICS


def test_a_mean_shows_what_stands_behind_it():
    mean = mean_with_misses([0.8, 0.0, None, 1.0], [False, True, False, False])
    assert (mean.mean, mean.n, mean.misses, mean.undefined) == (pytest.approx(0.6), 3, 1, 1)


@pytest.mark.parametrize("row", [row for row in METRICS.values() if row.better], ids=lambda row: row.name)
def test_turning_a_case_into_a_miss_never_improves_a_mean(row):
    rng = np.random.default_rng(0)
    worst = -100.0 if row.unit == "%" else 0.0 if row.better == "high" else 400.0
    values = list(rng.uniform(0, 1 if row.better == "high" else 390.0, size=12))
    before = mean_with_misses([row.mean_value(v) for v in values], [False] * 12).mean
    for case in range(12):
        after = [*values[:case], worst, *values[case + 1 :]]
        mean = mean_with_misses([row.mean_value(v) for v in after], [i == case for i in range(12)])
        assert (mean.mean <= before) if row.better == "high" else (mean.mean >= before)
        assert (mean.n, mean.misses) == (12, 1)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(300):
        interval = bootstrap_interval(rng.normal(0.8, 0.1, 40), list(range(40)), draws=400, seed=seed)
        inside += interval[0] <= 0.8 <= interval[1]
    assert 0.90 <= inside / 300 <= 0.98


def test_patients_are_drawn_whole():
    """Ten equal scans of each of five patients say no more than one scan of each."""
    one_each = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
    narrow = bootstrap_interval(np.repeat(one_each, 10), list(range(50)))
    by_patient = bootstrap_interval(np.repeat(one_each, 10), np.repeat(range(5), 10).tolist())
    alone = bootstrap_interval(one_each, list(range(5)))
    assert by_patient == pytest.approx(alone, abs=1e-9)
    assert by_patient[1] - by_patient[0] > 2 * (narrow[1] - narrow[0])


def test_the_interval_of_a_mean_over_classes_leaves_undefined_entries_out():
    table = np.array([[1.0, np.nan], [1.0, 0.5], [1.0, 0.5]])
    assert bootstrap_interval(table, ["a", "b", "c"]) == pytest.approx((0.75, 1.0), abs=0.26)
    assert bootstrap_interval(table, ["a", "b", "c"])[0] == 0.75
    assert bootstrap_interval(np.full((3, 2), np.nan), ["a", "b", "c"]) is None


def test_the_same_values_give_the_same_interval():
    values = np.random.default_rng(3).uniform(size=9)
    assert bootstrap_interval(values, list(range(9))) == bootstrap_interval(values, list(range(9)))


def test_a_paired_comparison_equals_scipy():
    rng = np.random.default_rng(4)
    a = {case: float(v) for case, v in enumerate(rng.uniform(0.7, 0.9, 15))}
    b = {case: v + float(d) for (case, v), d in zip(a.items(), rng.normal(0.03, 0.02, 15), strict=True)}
    result = compare_paired(a, b, {case: case for case in a})
    expected = stats.wilcoxon([b[case] - a[case] for case in a])
    assert result.p_value == pytest.approx(expected.pvalue, abs=1e-12)
    assert result.sentence() == "B is better"
    assert result.sentence(better="low") == "A is better"


def test_several_scans_of_a_patient_count_as_one_patient():
    a = dict.fromkeys("abcdef", 0.5)
    b = {"a": 0.6, "b": 0.6, "c": 0.6, "d": 0.6, "e": 0.6, "f": 0.6}
    assert compare_paired(a, b, dict.fromkeys("abcdef", "p")).patients == 1
    assert compare_paired(a, b, dict.fromkeys("abcdef", "p")).p_value is None


def test_equal_systems_show_no_difference():
    a = dict.fromkeys(range(6), 0.8)
    assert compare_paired(a, a, {case: case for case in a}).sentence() == "no difference shown"


def test_chance_is_called_a_difference_at_most_six_times_in_a_hundred():
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(1000):
        a, b = (dict(enumerate(rng.normal(0.8, 0.05, 20))) for _ in range(2))
        wrong += compare_paired(a, b, {case: case for case in a}).sentence() != "no difference shown"
    assert wrong / 1000 <= 0.06


def test_systems_without_a_common_case_are_refused():
    with pytest.raises(UserError, match="no case in common"):
        compare_paired({"a": 1.0}, {"b": 1.0}, {"a": 1, "b": 2})


def test_holm_adjusts_step_by_step():
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([0.9, 0.9]) == [1.0, 1.0]


def test_values_and_patients_must_pair_up():
    with pytest.raises(UserError, match="3 values of 2 patients"):
        bootstrap_interval([1, 2, 3], ["a", "b"])


def test_cost_is_null_where_no_case_says():
    assert cost_of([None], [None]).seconds_mean is None
