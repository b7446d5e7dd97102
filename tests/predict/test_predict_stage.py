"""The step "predict" in a run folder: which cases, what is kept, what is removed, what is remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from medseg.check import stage as check
from medseg.config import IntensityPlan, Pipeline, Plan, System
from medseg.core.errors import UserError
from medseg.core.run import RunFolder
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import build_system, save_model
from medseg.predict import stage

ORGAN = ClassInfo("organ", 1, (255, 0, 0))


def save_tiny(folder: Path, seed: int) -> str:
    torch.manual_seed(seed)
    plan = Plan(dims=3, in_channels=1, classes=[ORGAN.as_json()], out_channels=2, spacing_mm=[2.0, 2.0, 2.0],
                intensity=[IntensityPlan(scheme="zscore")], image_order=1, patch_size=[16, 16, 16], batch_size=1)  # fmt: skip
    system = System(name="3d-u-net", size="tiny")
    return save_model(folder, build_system(system, plan), system=system, plan=plan)


@pytest.fixture
def run_folder(tmp_path: Path) -> tuple[RunFolder, Pipeline]:
    """Ten labelled cases, checked, and a model that was trained in this run."""
    data = tmp_path / "data"
    for kind in ("images", "labels"):
        (data / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(10):
        label = np.zeros((16, 16, 12), np.uint8)
        label[4:12, 4:12, 3:9] = 1
        image = (label * 300.0 + rng.normal(0, 30, label.shape)).astype(np.int16)
        for kind, array in (("images", image), ("labels", label)):
            nibabel.save(
                nibabel.Nifti1Image(array, np.diag([2.0, 2, 3, 1])), data / kind / f"case{number}.nii.gz"
            )
    pipeline = Pipeline.model_validate(
        {
            "name": "test",
            "system": "3d-u-net",
            "compute": {"cores": 1},
            "data": {"root": str(data), "classes": {"organ": 1}, "split": {"folds": 5, "test_fraction": 0.2}},
        }
    )
    folder = RunFolder(tmp_path / "run")
    check.run(pipeline, folder)
    save_tiny(folder.model, 0)
    return folder, pipeline


def with_predict(pipeline: Pipeline, **changes: Any) -> Pipeline:
    return pipeline.model_copy(update={"predict": pipeline.predict.model_copy(update=changes)})


def names(folder: RunFolder) -> set[str]:
    return {p.name for p in folder.predictions.glob("*.nii.gz")}


def test_the_test_cases_are_predicted_by_default(run_folder: tuple[RunFolder, Pipeline]) -> None:
    folder, pipeline = run_folder
    result = stage.run(pipeline, folder)
    assert result.done == 2
    assert len(names(folder)) == 2
    assert stage.run(with_predict(pipeline, cases="all"), folder).done == 10
    assert len(names(folder)) == 10
    assert result.step == "predict"
    assert result.details["seconds_per_case"] > 0


def test_a_run_that_was_stopped_goes_on_where_it_was(run_folder: tuple[RunFolder, Pipeline]) -> None:
    folder, pipeline = run_folder
    pipeline = with_predict(pipeline, cases="all")
    stage.run(pipeline, folder)
    whole = {p.name: p.read_bytes() for p in folder.predictions.glob("*.nii.gz")}
    # A kill can leave a mask without its JSON, a JSON without its mask, and parts.
    (folder.predictions / "case1.json").unlink()
    (folder.predictions / "case2.nii.gz").unlink()
    (folder.predictions / ".part-xyz.nii.gz").write_bytes(b"half a file")
    result = stage.run(pipeline, folder)
    assert result.details["new"] == 2
    assert result.details["kept"] == 8
    assert {p.name: p.read_bytes() for p in folder.predictions.glob("[!.]*.nii.gz")} == whole


def test_a_new_training_replaces_the_masks_of_the_old_one(run_folder: tuple[RunFolder, Pipeline]) -> None:
    folder, pipeline = run_folder
    stage.run(with_predict(pipeline, cases="all"), folder)
    newer = save_tiny(folder.model, 1)
    stage.run(pipeline, folder)
    models = {json.loads(p.read_text())["model"] for p in folder.predictions.glob("*.json")}
    assert models == {newer}
    assert len(names(folder)) == 2


def test_a_given_model_does_not_mix_with_the_masks_of_another(
    run_folder: tuple[RunFolder, Pipeline], tmp_path: Path
) -> None:
    folder, pipeline = run_folder
    stage.run(pipeline, folder)
    save_tiny(tmp_path / "other", 3)
    with pytest.raises(UserError, match="masks of another model") as caught:
        stage.run(with_predict(pipeline, model=str(tmp_path / "other")), folder)
    assert "choose another folder" in str(caught.value)


def test_no_cases_of_a_kind_is_said_with_the_counts(run_folder: tuple[RunFolder, Pipeline]) -> None:
    folder, pipeline = run_folder
    split = pipeline.data.split.model_copy(update={"test_fraction": 0.0})
    pipeline = pipeline.model_copy(update={"data": pipeline.data.model_copy(update={"split": split})})
    check.run(pipeline, folder)
    with pytest.raises(UserError, match="no test cases to predict"):
        stage.run(with_predict(pipeline, cases="test"), folder)
    assert stage.run(pipeline, folder).done == 2


def test_a_run_without_a_model_says_what_is_missing(run_folder: tuple[RunFolder, Pipeline]) -> None:
    import shutil

    folder, pipeline = run_folder
    shutil.rmtree(folder.model)
    with pytest.raises(UserError, match="no such model folder"):
        stage.run(pipeline, folder)


def test_the_stamp_of_the_step_follows_the_model(run_folder: tuple[RunFolder, Pipeline]) -> None:
    folder, pipeline = run_folder
    before = stage.inputs(pipeline, folder)
    save_tiny(folder.model, 9)
    assert stage.inputs(pipeline, folder) != before
