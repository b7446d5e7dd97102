"""When a GPU's memory runs out a prediction goes on with less of it, says so, and never with other labels."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from medseg.config import IntensityPlan, Plan, Predict, System
from medseg.core.case import Case, Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.progress import be_quiet
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import Model
from medseg.predict.case import Predictor
from medseg.predict.job import Job, Task
from medseg.predict.many import run_job
from medseg.predict.retreat import retreat, with_less

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."


class Crowded(torch.nn.Module):
    """Runs out of memory with more than `most` windows of full size at once, as a GPU's allocator does."""

    def __init__(self, most: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layer, self.most = torch.nn.Conv3d(1, 3, 3, padding=1), most
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] == 16:
            self.batches.append(len(x))
            if len(x) > self.most:
                raise torch.OutOfMemoryError(FULL)
        return self.layer(x)


def a_model(most: int) -> Model:
    classes = (ClassInfo("a", 1, (1, 0, 0)), ClassInfo("b", 2, (0, 1, 0)))
    plan = Plan(dims=3, in_channels=1, classes=[c.as_json() for c in classes], out_channels=3, spacing_mm=[1.0] * 3,
                intensity=[IntensityPlan(scheme="none")], image_order=1, patch_size=[16] * 3, batch_size=1)  # fmt: skip
    return Model(Crowded(most).eval(), None, plan, classes, System(name="u-net"), "f" * 64, {})


def an_image() -> Image:
    array = np.random.default_rng(0).normal(size=(1, 40, 24, 20)).astype(np.float32)
    return Image(array, Geometry.from_spacing(array.shape[1:], (1.0, 1.0, 1.0)))


def walk(out: Path, most: int, batch_size: int, cases: int = 2) -> tuple[Any, Job]:
    settings = Predict(engine="torch", precision="fp32", batch_size=batch_size)
    job = Job(Predictor(a_model(most), settings), out, settings, "s", 10**12)
    names = [f"case{number}" for number in range(cases)]
    files = [out.parent / f"{name}.txt" for name in names]
    for file in files:
        file.write_text(file.name)
    tasks = [
        Task(name, lambda name=name: Case(name, name, an_image), (str(file),))
        for name, file in zip(names, files)
    ]
    return run_job(job, tasks), job


def test_fewer_windows_are_computed_at_once_and_the_masks_are_those_of_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    be_quiet(False)
    result, job = walk(tmp_path / "short", most=1, batch_size=4)
    said = capsys.readouterr().err
    assert (result.done, result.failed) == (2, {})
    assert "the GPU's memory ran out: 2 windows at once, case case0 is begun again" in said
    assert "the GPU's memory ran out: one window at once, case case0 is begun again" in said
    batches = job.predictor.model.net.batches
    assert batches[:2] == [4, 2]
    assert set(batches[2:]) == {1}, "later cases stay that way"
    walk(tmp_path / "ample", most=1, batch_size=1)
    for case in ("case0", "case1"):
        ours, theirs = (
            np.asarray(nibabel.load(tmp_path / place / f"{case}.nii.gz").dataobj)
            for place in ("short", "ample")
        )
        assert np.array_equal(ours, theirs)
        assert len(np.unique(ours)) == 3


def test_one_window_that_does_not_fit_fails_the_case_with_what_can_be_done(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not hold one window of this network") as caught:
        with_less(Predictor(a_model(0), Predict(engine="torch", precision="fp32")), full, "case a")
    assert "compute.device: cpu" in caught.value.hint
    result, _ = walk(tmp_path / "out", most=0, batch_size=2)
    assert set(result.failed) == {"case0", "case1"}
    said = "the GPU's memory does not hold one window of this network -> .*compute.device: cpu"
    assert all(re.match(said, reason) for reason in result.failed.values())


def full() -> None:
    raise torch.OutOfMemoryError(FULL)


def test_after_the_windows_the_sums_leave_the_gpu_and_then_nothing_is_left_to_give() -> None:
    first = SimpleNamespace(
        cut=SimpleNamespace(batch_size=1), only_in_ram=False, device="cuda:0", earlier=None, parts=()
    )
    predictor = SimpleNamespace(**{**vars(first), "earlier": first})
    assert retreat(predictor) == "logits are added up in main memory"
    assert predictor.only_in_ram
    assert first.only_in_ram, "the earlier stage of a cascade computes on the same GPU"
    assert retreat(predictor) == ""


def test_a_gpu_too_small_for_the_comparison_with_float32_is_said_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("medseg.predict.precision.has_bfloat16", lambda: True)
    with pytest.raises(UserError, match="does not hold a window in fp32") as caught:
        Predictor(a_model(0), Predict(engine="torch")).segment(an_image())
    assert "predict.precision: fp16" in caught.value.hint
