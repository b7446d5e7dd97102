"""Memory measured by dry steps: the largest batch that fits, and what happens where none does."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from medseg.config import IntensityPlan, Pipeline, Plan
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo
from medseg.plan import dry_step
from medseg.plan.dry_step import Measured, Step, fitting, in_words, measure

GB = 10**9


def make_plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "dims": 3,
        "in_channels": 1,
        "classes": [ClassInfo("ball", 1, (200, 30, 30)).as_json()],
        "out_channels": 2,
        "intensity": [IntensityPlan(scheme="none")],
        "patch_size": [16, 16, 16],
        "batch_size": 2,
    }
    return Plan(**{**values, **changes})


def make_pipeline(**compute: Any) -> Pipeline:
    system = {"name": "3d-u-net", "size": "tiny"}
    return Pipeline.model_validate(
        {"name": "t", "system": system, "compute": {"device": "cpu", "cores": 1, **compute}}
    )


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[int]]]:
    """A machine on which a step takes `base` GB and `each` GB more a patch; returns the batches that were tried."""

    def make(base: float, each: float, seconds: float = 0.1, swells: float = 0.0) -> list[list[int]]:
        asked: list[list[int]] = []

        def take(job: dict[str, Any], batches: list[int], room: int) -> list[Step]:
            asked.append(list(batches))
            steps = [Step(b, int((base + each * b + swells * (b > 4)) * GB), seconds * b) for b in batches]
            return [step for step in steps if step.peak_bytes <= room]

        monkeypatch.setattr(dry_step, "_take", take)
        return asked

    return make


def test_the_largest_batch_is_found_by_a_line_and_tried(machine: Callable) -> None:
    asked = machine(base=1.0, each=0.5)
    found = measure(make_pipeline(ram="10 GB"), make_plan())
    assert found.room_bytes == 9 * GB
    assert (found.batch, found.tried) == (16, True)
    assert asked == [[1, 2, 4], [16]]


def test_a_batch_that_takes_more_than_the_line_said_is_lowered(machine: Callable) -> None:
    asked = machine(base=1.0, each=0.5, swells=0.8)
    found = measure(make_pipeline(ram="10 GB"), make_plan())
    assert [batches[0] for batches in asked[1:]] == [16, 14]
    assert (found.batch, found.steps[-1].batch, found.tried) == (14, 14, True)


def test_steps_of_minutes_are_not_tried_and_that_is_said(machine: Callable) -> None:
    asked = machine(base=1.0, each=0.5, seconds=5.0)
    found = measure(make_pipeline(ram="10 GB"), make_plan())
    assert (found.batch, found.tried, len(asked)) == (16, False, 1)
    assert "by the line through smaller ones" in in_words(found, make_plan())


def test_what_does_not_fit_beyond_one_or_two_patches_is_the_answer(machine: Callable) -> None:
    machine(base=1.0, each=3.5)
    found = measure(make_pipeline(ram="10 GB"), make_plan())
    assert (found.batch, found.tried) == (2, True)


def test_a_patch_that_does_not_fit_at_all_is_refused_with_the_setting(machine: Callable) -> None:
    machine(base=20.0, each=1.0)
    with pytest.raises(UserError, match=r"not even one patch of 16x16x16 voxels fits 9\.0 GB") as caught:
        measure(make_pipeline(ram="10 GB"), make_plan())
    assert caught.value.where == "train.patch_size"


def test_no_more_than_64_patches_are_looked_for() -> None:
    steps = [Step(2, GB, 0.1), Step(4, GB, 0.1)]
    assert fitting(steps, 100 * GB) == 64
    assert fitting([Step(2, GB, 0.1), Step(4, GB + 1, 0.1)], 100 * GB) == 64
    found = Measured(tuple(steps), 64, 100 * GB, True, "fp32")
    assert "at least 64 fit 100.0 GB" in in_words(found, make_plan())


def test_a_process_that_fails_otherwise_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nValueError: no such layer\n")
    monkeypatch.setattr(dry_step.subprocess, "run", lambda *a, **k: broken)
    with pytest.raises(UserError, match="a dry step failed: ValueError: no such layer"):
        measure(make_pipeline(ram="10 GB"), make_plan())


def test_a_process_that_ran_out_of_memory_keeps_the_steps_before(monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps({"batch": 1, "peak_bytes": GB, "seconds": 0.1})
    full = SimpleNamespace(returncode=1, stdout=line + "\n", stderr="RuntimeError: can't allocate memory\n")
    monkeypatch.setattr(dry_step.subprocess, "run", lambda *a, **k: full)
    assert measure(make_pipeline(ram="10 GB"), make_plan()).batch == 1


def test_real_steps_take_more_memory_for_more_patches() -> None:
    """On a CPU, in a process of its own: the peak of 4 patches lies above that of one, and below a gigabyte."""
    job = {
        "system": {"name": "nnunet-plain", "size": "tiny"},
        "device": "cpu",
        "precision": "fp32",
        "cores": 1,
    }
    job["plan"] = make_plan(patch_size=[48, 48, 48]).model_dump(mode="json")
    steps = dry_step._take(job, (1, 8), 8 * GB)
    assert [step.batch for step in steps] == [1, 8]
    assert steps[1].peak_bytes - steps[0].peak_bytes > 20e6
    assert all(step.seconds > 0 for step in steps)
