"""Reading, computing and writing go on side by side: one case is read while another is computed and a third written."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medseg.config import IntensityPlan, Pipeline, Plan, System
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import build_system, save_model
from medseg.predict import many, outputs
from medseg.predict.case import Predictor
from medseg.predict.folder import predict_folder

PATIENCE_SECONDS = 60.0


class Meeting:
    """What has begun; whoever waits for something that never begins while it works is told so."""

    def __init__(self) -> None:
        self.begun: dict[str, threading.Event] = {}
        self.missed: list[str] = []
        self.lock = threading.Lock()

    def event(self, name: str) -> threading.Event:
        with self.lock:
            return self.begun.setdefault(name, threading.Event())

    def begin(self, name: str) -> None:
        self.event(name).set()

    def wait_for(self, name: str, during: str) -> None:
        if not self.event(name).wait(PATIENCE_SECONDS):
            self.missed.append(f"{name} during {during}")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    info = ClassInfo("organ", 1, (255, 0, 0))
    plan = Plan(dims=3, in_channels=1, classes=[info.as_json()], out_channels=2, spacing_mm=[2.0] * 3,
                intensity=[IntensityPlan(scheme="none")], image_order=1, patch_size=[16] * 3, batch_size=1)  # fmt: skip
    system = System(name="3d-u-net", size="tiny")
    save_model(tmp_path / "model", build_system(system, plan), system=system, plan=plan)
    return tmp_path / "model"


def test_a_case_is_read_and_another_written_while_one_is_computed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for number in range(3):
        array = np.full((16, 16, 16), number, np.int16)
        nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0])), data / f"case{number}.nii.gz")
    meeting, read, compute, write = Meeting(), many._read, Predictor.segment, outputs.write_masks

    def slow_read(jobs: Any, task: Any) -> Any:
        meeting.begin(f"reading {task.case}")
        return read(jobs, task)

    def slow_compute(self: Predictor, image: Any, *rest: Any, **more: Any) -> Any:
        number = int(image.array.max())
        meeting.begin(f"computing case{number}")
        if number < 2:
            meeting.wait_for(f"reading case{number + 1}", f"computing case{number}")
        if number > 0:
            meeting.wait_for(f"writing case{number - 1}", f"computing case{number}")
        return compute(self, image, *rest, **more)

    def slow_write(seg: Any, image: Any, case: str, *rest: Any) -> Any:
        meeting.begin(f"writing {case}")
        number = int(case[-1])
        if number < 2:
            meeting.wait_for(f"computing case{number + 1}", f"writing {case}")
        return write(seg, image, case, *rest)

    monkeypatch.setattr(many, "_read", slow_read)
    monkeypatch.setattr(Predictor, "segment", slow_compute)
    monkeypatch.setattr(outputs, "write_masks", slow_write)
    pipeline = Pipeline.model_validate({"name": "predict", "system": "from-model", "compute": {"cores": 1}})
    result = predict_folder(model, data, tmp_path / "out", pipeline)
    assert meeting.missed == []
    assert result.done == 3
