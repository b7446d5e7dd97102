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
                "system": system if isinstance(system, dict) else {"name": system, "size": size},
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


@pytest.mark.parametrize("axes", [[0, 1], [1, 2]])
def test_left_and_right_that_are_mirrored_by_hand_are_said(journey, monkeypatch, axes):
    lines = []
    monkeypatch.setattr(stage, "say", lines.append)
    data = {"root": str(journey.data), "classes": {"left organ": 1}, "modality": "mr"}
    journey.plan(data=data, train={"flips": axes})
    told = any(
        "train.flips mirrors left-right although classes have sides (left organ)" in one for one in lines
    )
    assert told == (0 in axes)


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


@pytest.mark.parametrize(("spacing", "axis"), [([2, 2, 2], 2), ([2, 5, 2], 1)])
def test_slices_are_planned_across_the_coarsest_axis(journey, spacing, axis):
    system = {"name": "u-net", "size": "tiny", "configuration": "2d"}
    journey.plan(system=system, ingest={"spacing_mm": spacing})
    plan = load_plan(journey.folder.plan)
    assert plan.dims == 3
    assert plan.topology == {"slices": axis}
    assert plan.patch_size[axis] == 1
    assert all(n > 1 for a, n in enumerate(plan.patch_size) if a != axis)
    assert plan.mirror_axes == [a for a in range(3) if a != axis]
    assert "the 2D form of u-net" in plan.reasons["topology"]
    shape = [30, 28, 26] if axis == 2 else [30, 11, 26]
    assert plan.estimate["predict_windows"] == shape[axis]
    assert "lowres_spacing_mm" not in plan.estimate


@pytest.mark.parametrize("train", [{}, {"batch_size": "measured"}])
def test_a_window_is_kept_as_it_was_set_for_slices_too(journey, train):
    system = {"name": "u-net", "size": "tiny", "configuration": "2d"}
    journey.plan(system=system, predict={"window": [32, 32, 4]}, train=train)
    plan = load_plan(journey.folder.plan)
    assert (plan.window, plan.topology) == ([32, 32, 4], {"slices": 2})
    assert plan.estimate["predict_windows"] == 12  # 26 slices, four a window that steps by two


def test_a_patch_that_is_set_for_volumes_gives_its_plane_to_slices(journey):
    system = {"name": "u-net", "size": "tiny", "configuration": "2d"}
    journey.plan(system=system, train={"patch_size": [16, 32, 8]})
    assert load_plan(journey.folder.plan).patch_size == [16, 32, 1]


def test_a_system_for_images_alone_is_offered_slices(journey):
    from medseg.config import System

    for kind in ("network", "classical"):
        flat = SimpleNamespace(name="flat", dims=(2,), kind=kind)
        with pytest.raises(UserError, match="flat works on 2D images, these are volumes") as caught:
            stage._require_dims(flat, System(name="flat"), 3)
        assert ("configuration: 2d" in caught.value.hint) is (kind == "network")
    with pytest.raises(UserError, match="works on 3D images, these are slices"):
        journey.plan(system={"name": "3d-u-net", "size": "tiny", "configuration": "2d"})


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
