"""A plan with which nothing could be computed is refused where it is read, with file and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.config import IntensityPlan, Plan, System
from medseg.config_file import load_pipeline
from medseg.config_plan import load_plan, save_plan
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.ingest.prepare import prepare_image
from medseg.model.facts import read_plan
from medseg.model.folder import load_facts, load_model, save_model
from medseg.plan.fingerprint import CaseFacts, Fingerprint
from medseg.plan.grids import decide_spacing
from medseg.predict.memory import finer

LIVER = {"name": "liver", "index": 1, "colour": [1, 2, 3]}


def a_plan(**changes: Any) -> Plan:
    plan = Plan(dims=3, in_channels=1, classes=[LIVER], out_channels=2, spacing_mm=[1.0, 1.0, 2.0],
                intensity=[IntensityPlan(scheme="none")], patch_size=[32, 32, 32], batch_size=1)  # fmt: skip
    return plan.model_copy(update=changes)


BAD = [
    ("spacing_mm", [-1.0, 1.0, 1.0], "spacing_mm.0: Input should be greater than 0, got -1"),
    ("spacing_mm", [1.0, 0.0, 1.0], "spacing_mm.1: Input should be greater than 0, got 0"),
    ("spacing_mm", [1.0, 1.0, 1e9], "spacing_mm.2: Input should be less than or equal to 1000"),
    ("spacing_mm", [1.0, 1.0], "spacing_mm: 2 numbers for 3D images"),
    ("patch_size", [32, 0, 32], "patch_size.1: Input should be greater than or equal to 1, got 0"),
    ("batch_size", 0, "batch_size: Input should be greater than or equal to 1, got 0"),
    ("image_order", 9, "image_order: Input should be less than or equal to 5, got 9"),
]


@pytest.mark.parametrize(("key", "value", "said"), BAD)
def test_a_plan_of_impossible_numbers_is_refused_by_file_and_key(tmp_path, key, value, said):
    save_plan(a_plan(**{key: value}), tmp_path / "plan.yaml")
    with pytest.raises(UserError) as caught:
        load_plan(tmp_path / "plan.yaml")
    assert said in str(caught.value)
    assert str(tmp_path / "plan.yaml") in str(caught.value)
    assert "make the plan again" in str(caught.value)
    save_model(tmp_path / "model", None, system=System(name="lung-threshold"), plan=a_plan(**{key: value}))
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "model")
    assert said in str(caught.value)
    assert "model.json" in str(caught.value)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    save_plan(a_plan(spacing_mm=[float("nan"), 1.0, 1.0]), tmp_path / "plan.yaml")
    with pytest.raises(UserError, match=r"spacing_mm\.0: Input should be a finite number, got nan"):
        load_plan(tmp_path / "plan.yaml")


def test_a_model_needs_an_intensity_for_each_channel(tmp_path: Path) -> None:
    """Channels beyond the list would be handed over unprepared."""
    save_model(tmp_path, None, system=System(name="lung-threshold"), plan=a_plan(in_channels=2))
    with pytest.raises(UserError, match=r"an entry of plan\.intensity for each of 2 channels, found 1"):
        read_plan(load_facts(tmp_path), "model.json")


@pytest.mark.parametrize("value", ["[-1, 1, 1]", "[0, 1, 1]", "[.nan, 1, 1]", "[1, 1, 2000]"])
def test_the_pipeline_file_takes_no_impossible_spacing(tmp_path: Path, value: str) -> None:
    (tmp_path / "p.yaml").write_text(f"name: x\ningest:\n  spacing_mm: {value}\n")
    with pytest.raises(UserError, match=r"p\.yaml line 3  ingest\.spacing_mm\.\d: Input should be"):
        load_pipeline(tmp_path / "p.yaml")


def test_a_grid_too_fine_for_the_memory_is_refused_before_any_is_taken() -> None:
    case = CaseFacts(
        "a",
        (40, 40, 20),
        (1.0, 1.0, 2.0),
        "mm",
        "ct",
        (40, 40, 20),
        1.0,
        True,
        np.zeros((1, 1)),
        np.zeros((1, 1)),
    )
    with pytest.raises(
        UserError, match=r"ingest\.spacing_mm: .* would make .* of the largest case, 1 GB may"
    ):
        decide_spacing([0.001, 0.001, 0.001], Fingerprint((case,), 1), float("inf"), 1e9)
    array = np.zeros((1, 40, 40, 20), np.float32)
    image = Image(array, Geometry((40, 40, 20), np.diag([1.0, 1.0, 2.0, 1.0])), "CT", {}, ())
    with pytest.raises(UserError, match=r"takes 256 TB on a grid of 0\.001x0\.001x0\.001 mm"):
        prepare_image(image, a_plan(spacing_mm=[0.001, 0.001, 0.001]))


def test_a_case_that_does_not_fit_is_told_the_model_s_grid() -> None:
    geometry = Geometry((40, 40, 20), np.diag([1.0, 1.0, 2.0, 1.0]))
    said = finer(geometry, a_plan(spacing_mm=[0.001, 0.001, 0.001]))
    assert said == " (the model's grid of 0.001x0.001x0.001 mm makes 40000x40000x40000 voxels of it)"
    assert finer(geometry, a_plan()) == ""
