"""The methods paragraph says what was set, and nothing of what was not done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medseg.config import IntensityPlan, Pipeline, Plan, System
from medseg.config_types import GuidedFilter
from medseg.core.run import RunFolder
from medseg.report.gather import Sheet
from medseg.report.methods import methods_text


def told(tmp_path: Path, plan: Plan | None, **facts: Any) -> str:
    given = {
        "history": [],
        "scores": {},
        "rows": [],
        "predictions": {},
        "steps": {},
        "model": {"kind": "network"},
        **facts,
    }
    sheet = Sheet("u-net", RunFolder(tmp_path), plan, **given)  # fmt: skip
    pipeline = Pipeline(name="p", data={"modality": "ct"}, system=System(name="u-net"))
    return methods_text(pipeline, sheet, {"train": 5, "test": 2, "val": 0}, "1.2.3")


def plan_of(**settings: Any) -> Plan:
    return Plan(
        dims=3,
        in_channels=1,
        classes=[{"name": "lung", "value": 1}],
        out_channels=2,
        intensity=[IntensityPlan(scheme="window", low=-1000, high=400)],
        spacing_mm=[6.0, 6.0, 6.0],
        patch_size=[64, 48, 48],
        batch_size=2,
        **settings,
    )


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (GuidedFilter(radius_mm=8), "by a guided filter (radius 8 mm)."),
        (GuidedFilter(radius_mm=8, iterations=3), "by a guided filter (radius 8 mm, applied 3 times)."),
        (
            GuidedFilter(radius_mm=6, background=0.75),
            "by a guided filter (radius 6 mm, from masks in which background counted as such where it was at least 75% likely beside a class).",
        ),
    ],
)
def test_the_guided_filter_is_told_with_its_settings(
    tmp_path: Path, setting: GuidedFilter, sentence: str
) -> None:
    assert sentence in told(tmp_path, plan_of(guided_filter=setting))


def test_parts_that_were_removed_are_told(tmp_path: Path) -> None:
    plan = plan_of(smallest_part_ml={"lung": 1.5}, part_median={"lung": (-970, None), "heart": (0, 200), "rib": (None, None)})  # fmt: skip
    assert (
        "Connected parts were removed from the masks: lung below 1.5 ml, lung with a median below -970, "
        "heart with a median below 0 or above 200."
    ) in told(tmp_path, plan)


def test_what_was_not_done_is_not_told(tmp_path: Path) -> None:
    text = told(tmp_path, plan_of())
    assert text.startswith("Cases: 5 train, 2 test; split by patient")
    assert "resampled to 6 x 6 x 6 mm" in text
    assert text.endswith("Software: medseg 1.2.3.")
    said = (
        "guided filter",
        "mirrored",
        "Trained for",
        "Scored against",
        "Cross-validation",
        "Prompts",
        "parts",
    )
    for word in said:
        assert word not in text


def test_a_method_that_learns_nothing_has_no_grid_and_no_windows(tmp_path: Path) -> None:
    text = told(tmp_path, plan_of(), model={"kind": "classical"})
    assert "resampled" not in text
    assert "sliding windows" not in text


def test_agreement_with_another_method_is_not_called_truth(tmp_path: Path) -> None:
    text = told(tmp_path, plan_of(), scores={"reference": "lung-threshold"})
    assert "Scored against masks of lung-threshold (agreement, not truth)" in text
