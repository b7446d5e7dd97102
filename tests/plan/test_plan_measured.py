"""`train.batch_size: measured`: the largest batch that fits, with nnU-Net's cap, and the reason beside it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medseg.config import IntensityPlan, Pipeline, Plan
from medseg.core import ClassInfo, Geometry, Image, Segmentation, UserError
from medseg.plan import decide as decide_module
from medseg.plan import dry_step
from medseg.plan.decide import decide
from medseg.plan.dry_step import Measured, Step
from medseg.plan.fingerprint import Fingerprint, facts_of
from medseg.plan.measured import covering, held_bytes, measured_batch, step_of
from medseg.zoo.build import find

GB = 10**9
CLASSES = (ClassInfo("ball", 1, (200, 30, 30)),)


def make_plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "dims": 3,
        "in_channels": 1,
        "classes": [info.as_json() for info in CLASSES],
        "out_channels": 2,
        "intensity": [IntensityPlan(scheme="none")],
        "patch_size": [16, 16, 16],
        "batch_size": 2,
    }
    return Plan(**{**values, **changes})


def make_pipeline(ram: str = "10 GB", **train: Any) -> Pipeline:
    return Pipeline.model_validate(
        {
            "name": "t",
            "system": {"name": "3d-u-net", "size": "tiny"},
            "train": {"batch_size": "measured", **train},
            "compute": {"device": "cpu", "cores": 1, "ram": ram},
        }
    )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """A machine on which a step takes `base` GB and `each` GB more a patch."""

    def make(base: float, each: float) -> None:
        def take(job: dict[str, Any], batches: list[int], room: int) -> list[Step]:
            steps = [Step(b, int((base + each * b) * GB), 0.5 * b) for b in batches]
            return [step for step in steps if step.peak_bytes <= room]

        monkeypatch.setattr(dry_step, "_take", take)

    return make


def decided(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, cases: int) -> Plan:
    """The plan of a cohort of equal cases of 48x48x48 voxels."""
    monkeypatch.setattr(decide_module, "measured_flops", lambda device: 1e11)
    geometry = Geometry.from_spacing((48, 48, 48), (1.0, 1.0, 1.0))
    labels = np.zeros((48, 48, 48), np.uint8)
    labels[20:28, 20:28, 20:28] = 1
    image = Image(np.random.default_rng(0).normal(size=(1, 48, 48, 48)).astype(np.float32), geometry)
    facts = facts_of("a", image, Segmentation(labels, geometry, CLASSES), CLASSES)
    cohort = SimpleNamespace(classes=CLASSES, channels=())
    return decide(pipeline, cohort, Fingerprint((facts,), cases), find("3d-u-net"))


def test_the_largest_batch_that_fits_is_planned_with_its_reason_and_what_a_step_took(
    machine: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(1.0, 0.5)
    plan = decided(make_pipeline(patch_size=[16, 16, 16]), monkeypatch, cases=1000)
    held = 48**3 * 1000 * 3
    assert plan.batch_size == int((9 - held / GB - 1) / 0.5) == 15
    assert "measured in fp32 by a dry step: 15 fit 8.67 GB of compute.ram" in plan.reasons["batch_size"]
    assert plan.estimate["measured"] is True
    assert plan.estimate["train_ram_bytes"] == int(8.5 * GB)
    assert plan.estimate["step_seconds"] == 7.5


def test_more_memory_plans_more_patches(machine: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(1.0, 0.5)
    small = decided(make_pipeline("4 GB", patch_size=[16, 16, 16]), monkeypatch, cases=1000)
    large = decided(make_pipeline("8 GB", patch_size=[16, 16, 16]), monkeypatch, cases=1000)
    assert small.batch_size < large.batch_size


def test_a_batch_covers_at_most_five_percent_of_the_training_voxels_and_that_is_said(
    machine: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(1.0, 0.1)
    plan = decided(make_pipeline(patch_size=[16, 16, 16]), monkeypatch, cases=4)
    assert plan.batch_size == round(0.05 * 4 * 48**3 / 16**3) == 5
    assert plan.reasons["batch_size"].endswith("held at 5, which covers 5% of the training voxels")
    assert plan.estimate["step_seconds"] == 2.5


def test_the_cap_goes_no_lower_than_two_patches() -> None:
    assert covering((16, 16, 16), 3, (16, 16, 16)) == 2


def test_prepared_cases_count_while_they_are_held_in_memory_and_no_longer_when_they_stay_on_disk() -> None:
    pipeline = make_pipeline("1 GB")
    assert held_bytes(pipeline, make_plan(), (100, 100, 100), 50) == 150_000_000
    assert held_bytes(pipeline, make_plan(), (100, 100, 100), 101) == 0


def test_a_step_that_was_not_taken_lies_on_the_line_between_its_neighbours() -> None:
    steps = (Step(1, 100, 1.0), Step(2, 200, 2.0), Step(4, 400, 4.0), Step(10, 1000, 10.0))
    found = Measured(steps, 10, 2000, True, "fp32")
    assert step_of(found, 4) == Step(4, 400, 4.0)
    assert step_of(found, 7) == Step(7, 700, 7.0)
    assert step_of(Measured(steps[:3], 8, 2000, False, "fp32"), 8) == Step(8, 800, 8.0)


def test_memory_that_takes_not_even_one_patch_is_refused_with_the_setting(machine: Callable) -> None:
    machine(20.0, 1.0)
    with pytest.raises(UserError, match="not even one patch") as caught:
        measured_batch(make_pipeline(), make_plan(), (48, 48, 48), 10)
    assert caught.value.where == "train.patch_size"


def test_a_word_that_is_no_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="measured"):
        make_pipeline(batch_size="largest")


def test_real_dry_steps_end_at_the_cap_of_a_small_cohort() -> None:
    pipeline = make_pipeline("8 GB")
    found = measured_batch(pipeline, make_plan(), (32, 32, 32), 8)
    assert found.batch == covering((32, 32, 32), 8, (16, 16, 16)) == 3
    assert "held at 3" in found.reason
    assert 50e6 < found.peak_bytes < 8e9
    assert found.seconds > 0
