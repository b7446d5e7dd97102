"""The step "plan": from checked cases to plan.yaml, or from a model that was given."""

from __future__ import annotations

from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from medseg.config import Pipeline
from medseg.config_plan import load_plan
from medseg.core import UserError
from medseg.core.run import RunFolder
from medseg.plan import stage


@pytest.fixture
def journey(tmp_path):
    """Four volumes with labels, checked; `.plan(**sections)` runs the step."""
    from medseg.data.cohort import find_cases, save_cohort

    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(4):
        label = np.zeros((30, 28, 26), np.uint8)
        label[5 : 12 + k, 5:12, 5:12] = 1
        image = (rng.normal(0, 20, label.shape) + 100 * label).astype(np.int16)
        nib.save(
            nib.Nifti1Image(image, np.diag([2, 2, 2, 1.0])), tmp_path / "data" / "images" / f"c{k}.nii.gz"
        )
        nib.save(
            nib.Nifti1Image(label, np.diag([2, 2, 2, 1.0])), tmp_path / "data" / "labels" / f"c{k}.nii.gz"
        )
    folder = RunFolder(tmp_path / "run")

    def plan(system="3d-u-net", size="tiny", **sections):
        pipeline = Pipeline.model_validate(
            {
                "name": "t",
                "data": {"root": str(tmp_path / "data"), "classes": {"organ": 1}, "modality": "mr"},
                "system": {"name": system, "size": size},
                "compute": {"device": "cpu", "workers": 1},
                **sections,
            }
        )
        save_cohort(find_cases(pipeline.data), folder)
        return stage.run(pipeline, folder)

    return SimpleNamespace(plan=plan, folder=folder, data=tmp_path / "data")


def test_the_plan_is_written_and_said_in_one_line(journey):
    result = journey.plan()
    plan = load_plan(journey.folder.plan)
    assert plan.spacing_mm == [2.0, 2.0, 2.0]
    assert result.line.startswith("2x2x2 mm, patches of ")
    assert "a step takes about" in result.line
    assert result.done == 3  # the fourth validates
    low, high = plan.volume_ml["organ"]
    assert 2.743 < low < high < 3.921  # boxes of 7 to 10 by 7 by 7 voxels of 8 mm3


@pytest.mark.parametrize(("asked", "said"), [({"minutes": 0.5}, True), ({"steps": 5}, False)])
def test_too_few_steps_for_the_time_are_said_unless_they_were_asked_for(journey, asked, said):
    journey.plan()
    plan = load_plan(journey.folder.plan)
    cost = {**plan.estimate, "step_seconds": 6.0, "train_minutes": 0.5}
    pipeline = Pipeline.model_validate({"name": "t", "system": {"name": "3d-u-net"}, "train": asked})
    line = stage.in_words(plan.model_copy(update={"estimate": cost}), pipeline)
    assert ("only 5 steps fit: a smaller system.size would learn more" in line) is said


def test_a_classical_method_needs_no_labels(journey):
    for label in (journey.data / "labels").iterdir():
        label.unlink()
    result = journey.plan("threshold-otsu", "paper")
    plan = load_plan(journey.folder.plan)
    assert "reads 3D cases as they are" in result.line
    assert plan.spacing_mm is None
    assert plan.intensity[0].scheme == "none"


def test_a_training_without_labels_is_refused(journey):
    for label in (journey.data / "labels").iterdir():
        label.unlink()
    with pytest.raises(UserError, match="no case for training has a label"):
        journey.plan()


def test_a_system_for_volumes_is_refused_for_flat_images(journey, tmp_path):
    from PIL import Image

    for kind in ("images", "labels"):
        for old in (journey.data / kind).iterdir():
            old.unlink()
        for k in range(3):
            Image.fromarray(np.full((40, 50), k % 2, np.uint8)).save(journey.data / kind / f"p{k}.png")
    with pytest.raises(UserError, match="3d-u-net works on 3D images, these are flat images"):
        journey.plan()


def test_unreadable_cases_do_not_stop_the_plan_but_all_of_them_do(journey):
    names = [f"c{k}" for k in range(4)]
    (journey.data / "images" / "c0.nii.gz").write_bytes(b"")
    journey.plan()
    for name in names:
        (journey.data / "images" / f"{name}.nii.gz").write_bytes(b"")
    with pytest.raises(UserError, match="cases could be read"):
        journey.plan()


def test_with_a_model_given_its_own_plan_is_taken(journey, tmp_path):
    from medseg.config import System
    from medseg.model.folder import build_system, save_model

    journey.plan()
    plan = load_plan(journey.folder.plan)
    system = System(name="3d-u-net", size="tiny")
    save_model(
        tmp_path / "model",
        build_system(system, plan),
        system=system,
        plan=plan,
        scores={},
        data_hash="",
        extra={},
    )
    result = journey.plan(predict={"model": str(tmp_path / "model")})
    assert result.line == "the plan is the model's own"
    assert load_plan(journey.folder.plan).spacing_mm == plan.spacing_mm
