"""A disk that fills up while masks are written: said in words, nothing half left behind, and the same call goes on."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medseg.cli import _main
from medseg.config import IntensityPlan, Plan, Predict, System
from medseg.core import atomic
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import load_model, save_model
from medseg.predict.case import Predictor
from medseg.predict.job import Job


@pytest.fixture
def model(tmp_path: Path) -> Path:
    plan = Plan(dims=3, in_channels=1, classes=[ClassInfo("bright", 1, (1, 2, 3)).as_json()], out_channels=2,
                spacing_mm=[2.0, 2.0, 2.0], intensity=[IntensityPlan(scheme="none")], patch_size=[16] * 3,
                batch_size=1)  # fmt: skip
    save_model(tmp_path / "model", None, system=System(name="threshold-otsu"), plan=plan)
    return tmp_path / "model"


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        array = rng.normal(10, 3, (12, 12, 10))
        array[4:8, 4:8, 3:7] += 100
        nibabel.save(
            nibabel.Nifti1Image(array.astype(np.int16), np.diag([2.0, 2, 2, 1])), folder / f"{name}.nii.gz"
        )
    return folder


def full_after(masks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes this many masks and no more."""
    flush, written = atomic._flush, []

    def refuse(path: Path) -> None:
        if path.name.endswith(".nii.gz"):
            written.append(path)
            if len(written) > masks:
                raise OSError(errno.ENOSPC, "No space left on device")
        flush(path)

    monkeypatch.setattr(atomic, "_flush", refuse)


def test_a_full_disk_stops_the_call_and_the_same_call_goes_on(
    model: Path,
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    out = tmp_path / "masks"
    call = ["predict", str(model), "--data", str(cohort), "--out", str(out), "--json"]
    with monkeypatch.context() as full:
        full_after(1, full)
        assert _main(call) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["what"] == "the disk is full"
    assert error["where"] == str(out)
    assert "give the same command again" in error["hint"]
    assert sorted(path.name for path in out.glob("*.*")) == ["a.json", "a.nii.gz"]
    assert not list(out.rglob(".part-*"))
    assert _main(["status", str(out)]) == 0
    text = capsys.readouterr().out
    assert "1 done, 0 to look at, 0 failed, 2 waiting" in text
    assert "the same `medseg predict` call goes on" in text
    kept = (out / "a.nii.gz").stat().st_mtime_ns
    assert _main(call) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["cases"]["done"] == 3
    assert "1 done before" in facts["line"]
    assert (out / "a.nii.gz").stat().st_mtime_ns == kept


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_fails_no_case_wherever_it_is_noticed(model: Path, tmp_path: Path, number: int) -> None:
    settings = Predict()
    job = Job(Predictor(load_model(model), settings), tmp_path, settings, "", 0)
    with pytest.raises(UserError, match="the disk is full"):
        job.fail("a", OSError(number, "full"))
    assert job.failed == {}
