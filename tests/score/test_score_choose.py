"""The best of several systems: by mean Dice on the shared cases, ties to the cheaper one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from medseg.core.errors import UserError
from medseg.score.choose import Candidate, candidates_of, choose
from medseg.score.folds import plus_minus, spread_of


def table(path: Path, dice: Mapping[str, Mapping[str, float]]) -> Path:
    """scores.parquet of case -> class -> Dice."""
    rows = [
        {"case": case, "patient": case, "class": name, "merged": False, "dice": value}
        for case, values in dice.items()
        for name, value in values.items()
    ]
    pd.DataFrame(rows).to_parquet(path)
    return path


def flat(value: float, cases: int = 8) -> dict[str, dict[str, float]]:
    return {f"case-{n}": {"a": value, "b": value} for n in range(cases)}


def test_the_highest_mean_wins_whatever_it_costs(tmp_path: Path) -> None:
    good = Candidate("good", table(tmp_path / "a.parquet", flat(0.9)), 500.0, {"sd": 0.01, "n": 5})
    cheap = Candidate("cheap", table(tmp_path / "b.parquet", flat(0.8)), 5.0)
    facts = choose([cheap, good])
    assert facts["chosen"] == "good"
    assert [row["system"] for row in facts["candidates"]] == ["good", "cheap"]
    assert facts["candidates"][0]["sd_over_folds"] == 0.01
    assert "0.900 +- 0.010 over folds, 8 cases, 500 s" in facts["sentence"]
    assert facts["differences"][0]["difference"] == pytest.approx(0.1)


def test_a_tie_goes_to_the_cheaper_one(tmp_path: Path) -> None:
    best = Candidate("best", table(tmp_path / "a.parquet", flat(0.9004)), 500.0)
    cheap = Candidate("cheap", table(tmp_path / "b.parquet", flat(0.9000)), 50.0)
    facts = choose([best, cheap])
    assert facts["chosen"] == "cheap"
    assert facts["ties"] == ["best", "cheap"]
    assert "cheapest" in facts["sentence"]


def test_only_cases_that_all_have_scored_count(tmp_path: Path) -> None:
    easy = {**flat(0.7, 4), **{f"more-{n}": {"a": 1.0, "b": 1.0} for n in range(20)}}
    facts = choose([
        Candidate("easy", table(tmp_path / "a.parquet", easy), 1.0),
        Candidate("honest", table(tmp_path / "b.parquet", flat(0.8, 4)), 1.0),
    ])  # fmt: skip
    assert facts["chosen"] == "honest"
    assert facts["candidates"][0]["n"] == 4
    assert facts["not_shared"] == {"easy": 40}


def test_classes_count_alike_however_many_cases_have_them(tmp_path: Path) -> None:
    dice = {f"case-{n}": {"common": 1.0} for n in range(9)} | {"case-9": {"common": 1.0, "rare": 0.0}}
    facts = choose([Candidate(n, table(tmp_path / f"{n}.parquet", dice), 1.0) for n in ("x", "y")])
    assert facts["candidates"][0]["dice"] == pytest.approx(0.5)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    one = Candidate("one", table(tmp_path / "a.parquet", flat(0.9)), 1.0)
    other = Candidate("two", table(tmp_path / "b.parquet", {"elsewhere": {"a": 0.5}}), 1.0)
    with pytest.raises(UserError, match="two or more different runs"):
        choose([one])
    with pytest.raises(UserError, match="two or more different runs"):
        choose([one, one])
    with pytest.raises(UserError, match="no case and class was scored by all"):
        choose([one, other])
    with pytest.raises(UserError, match="has no scores yet") as caught:
        candidates_of(tmp_path)
    assert "finish the run" in str(caught.value)


def test_the_spread_is_of_a_sample_and_absent_for_one_value() -> None:
    found = spread_of([0.8, 0.9, None, 1.0])
    assert found == {"mean": pytest.approx(0.9), "sd": pytest.approx(0.1), "low": 0.8, "high": 1.0, "n": 3}
    assert spread_of([0.8])["sd"] is None
    assert spread_of([None]) == {"mean": None, "sd": None, "low": None, "high": None, "n": 0}
    assert plus_minus(found) == "0.900 +- 0.100"
    assert plus_minus(spread_of([0.8])) == "0.800"
    assert plus_minus(spread_of([])) == "-"
