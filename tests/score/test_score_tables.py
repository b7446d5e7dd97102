"""From rows to scores.json: means, misses, intervals, worst cases; a miss never improves anything."""

import json

import pytest

from medseg.core.errors import UserError
from medseg.metrics.case import ABSENT, INVENTED, MISSED, UNKNOWN
from medseg.score.compare import compare_systems
from medseg.score.tables import cost_summary, metric_columns, summarise

WORST = {"dice": 0.0, "iou": 0.0, "hd95_mm": 400.0, "nsd": 0.0, "volume_error_percent": -100.0}


def row(case, name, reason="", merged=False, patient=None, **values):
    facts = {
        "case": case,
        "patient": patient or case,
        "split": "test",
        "class": name,
        "index": 1,
        "merged": merged,
    }
    facts |= {"unit": "mm", "tp": 1, "fp": 1, "fn": 1, "reason": reason}
    return facts | {column: values.get(column) for column in WORST}


def cohort(cases=6):
    return [
        row(
            f"c{i}",
            name,
            dice=0.9 - i / 20,
            iou=0.8 - i / 20,
            hd95_mm=2.0 + i,
            nsd=0.9 - i / 30,
            volume_error_percent=v,
        )
        for i, v in zip(range(cases), [4.0, -8.0, 2.0, 300.0, 0.0, -20.0], strict=False)
        for name in ("left", "right")
    ]


def test_means_run_over_cases_and_then_over_classes():
    rows = [
        row("a", "left", dice=1.0),
        row("b", "left", dice=0.5),
        row("a", "right", dice=0.25),
        row("b", "right", ABSENT),
    ]
    facts = summarise(rows)
    assert facts["per_class"]["left"]["dice"] == 0.75
    assert facts["per_class"]["right"] | {"intervals": 0} == {
        "dice": 0.25, "iou": None, "hd95_mm": None, "nsd": None, "volume_error_percent": None,
        "n": 1, "misses": 0, "invented": 0, "undefined": 1, "intervals": 0,
    }  # fmt: skip
    assert facts["mean"]["dice"] == 0.5
    assert facts["mean"]["hd95_mm"] is None
    assert facts["n"] == 2


def test_volume_errors_of_both_signs_do_not_cancel():
    rows = [row("a", "left", volume_error_percent=30.0), row("b", "left", volume_error_percent=-30.0)]
    assert summarise(rows)["mean"]["volume_error_percent"] == 30.0


@pytest.mark.parametrize("case", range(6))
def test_turning_a_case_into_a_miss_never_improves_any_aggregate(case):
    rows = cohort()
    before = summarise(rows)
    missed = [
        r | WORST | {"reason": MISSED} if r["case"] == f"c{case}" and r["class"] == "left" else r
        for r in rows
    ]
    after = summarise(missed)
    for column, metric in metric_columns(rows).items():
        for place in ("mean", "per_class"):
            old, new = (
                facts[place] if place == "mean" else facts[place]["left"] for facts in (before, after)
            )
            assert metric.badness(new[column]) >= metric.badness(old[column]) - 1e-12, (place, column)
    assert (after["misses"], after["per_class"]["left"]["misses"]) == (1, 1)
    assert after["n"] == before["n"]
    assert (
        after["worst"][0] == f"c{case}"
        or after["per_case"][f"c{case}"]["dice"] <= before["per_case"][f"c{case}"]["dice"]
    )


def test_the_worst_case_comes_first_and_undefined_ones_last():
    rows = [row("good", "x", dice=0.9), row("empty", "x", ABSENT), row("bad", "x", dice=0.1)]
    assert summarise(rows)["worst"] == ["bad", "good", "empty"]


def test_unions_are_shown_but_do_not_enter_the_mean():
    rows = [row("a", "left", dice=0.5), row("a", "both", dice=1.0, merged=True)]
    facts = summarise(rows)
    assert facts["mean"]["dice"] == 0.5
    assert facts["per_class"]["both"]["dice"] == 1.0
    assert facts["per_case"]["a"]["dice"] == 0.5
    assert facts["unions"] == ["both"]


def test_intervals_are_by_patient_and_hold_the_mean():
    rows = cohort()
    facts = summarise(rows)
    low, high = facts["intervals"]["dice"]
    assert low < facts["mean"]["dice"] < high
    one_patient = summarise([r | {"patient": "p"} for r in rows])
    assert one_patient["intervals"]["dice"] is None


def test_scores_are_json_without_nan():
    rows = [row("a", "x", UNKNOWN), row("b", "x", INVENTED, dice=0.0)]
    assert json.loads(json.dumps(summarise(rows), allow_nan=False))["invented"] == 1
    assert summarise([])["n"] == 0
    assert summarise([])["mean"] == {"dice": None, "iou": None, "hd95_mm": None}


def test_cost_takes_what_the_side_cars_say():
    cost = cost_summary([{"seconds": 2.0, "peak_ram_bytes": 2e9}, {"seconds": 4.0}, {}])
    assert (cost["seconds_mean"], cost["seconds_max"], cost["peak_ram_gb"], cost["n"]) == (3.0, 4.0, 2.0, 2)


# --- systems side by side -----------------------------------------------------------------------------------------


def tables(tmp_path, shift, cases=12):
    import pandas as pd

    from medseg.score.tables import FACTS

    made = {}
    for system, plus in shift.items():
        rows = [
            row(f"c{i}", "x", dice=0.7 + i / 100 + plus * (1 + i / 50), hd95_mm=5.0) for i in range(cases)
        ]
        made[system] = tmp_path / f"{system}.parquet"
        pd.DataFrame(rows)[[*FACTS, "dice", "hd95_mm"]].to_parquet(made[system])
    return made


def test_a_system_that_is_better_everywhere_is_called_better(tmp_path):
    found = compare_systems(tables(tmp_path, {"u-net": 0.0, "v-net": 0.05, "copy": 0.0}))
    by_pair = {(r["a"], r["b"]): r for r in found}
    assert by_pair["u-net", "v-net"]["sentence"] == "v-net is better"
    assert by_pair["u-net", "v-net"]["difference"] == pytest.approx(0.05 * 1.11)
    assert by_pair["v-net", "copy"]["sentence"] == "v-net is better"
    assert by_pair["u-net", "copy"]["sentence"] == "no difference shown"
    assert by_pair["u-net", "copy"]["p_value"] is None
    assert by_pair["u-net", "v-net"]["p_adjusted"] == pytest.approx(2 * by_pair["u-net", "v-net"]["p_value"])


def test_what_cannot_rank_is_refused(tmp_path):
    made = tables(tmp_path, {"a": 0.0, "b": 0.1})
    with pytest.raises(UserError, match="'volume_ml' cannot rank systems"):
        compare_systems(made, "volume_ml")
    with pytest.raises(UserError, match="has no column 'nsd'"):
        compare_systems(made, "nsd")
    with pytest.raises(UserError, match="no such table of scores"):
        compare_systems({"a": tmp_path / "none.parquet", "b": made["b"]})
