"""The step score on a small run folder: tables, reasons, what is left out, what a person should look at."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medseg.config import Pipeline, Plan
from medseg.config_plan import save_plan
from medseg.core.atomic import write_json
from medseg.core.errors import UserError
from medseg.core.run import RunFolder
from medseg.core.segmentation import ClassInfo
from medseg.data.cohort import CaseRow, Cohort, save_cohort
from medseg.score import stage

AFFINE = np.diag([1.0, 1.0, 2.5, 1.0])
CLASSES = (
    ClassInfo("left lung", 1, (1, 1, 1), None, "left"),
    ClassInfo("right lung", 2, (2, 2, 2), None, "right"),
)
TRUTH = {1: (0, 4), 2: (5, 9)}


def box_labels(boxes, shape=(12, 12, 10)):
    array = np.zeros(shape, dtype=np.uint8)
    for value, (low, high) in boxes.items():
        array[low:high, low:high, low:high] = value
    return array


def save(array, path, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def pipeline(**sections):
    data = {"classes": {"left lung": 1, "right lung": 2}, **sections.pop("data", {})}
    return Pipeline.model_validate({"name": "small", "system": "u-net", "data": data, **sections})


class Run:
    """A run folder with a plan, cases and predictions."""

    def __init__(self, path):
        self.path, self.folder = path, RunFolder(path / "run")
        self.rows = []
        intensity = [{"scheme": "none"}]
        plan = Plan.model_validate({
            "dims": 3, "in_channels": 1, "classes": [info.as_json() for info in CLASSES], "out_channels": 3,
            "intensity": intensity, "patch_size": [8, 8, 8], "batch_size": 1,
            "volume_ml": {"left lung": [0.1, 0.3], "right lung": [0.1, 0.3]},
        })  # fmt: skip
        save_plan(plan, self.folder.plan)

    def case(self, name, predicted=None, truth=TRUTH, label=True, affine=AFFINE, **facts):
        image = save(np.zeros((12, 12, 10), np.int16), self.path / "data" / f"{name}.nii.gz")
        labels = (
            {"label": str(save(box_labels(truth), self.path / "data" / f"{name}_label.nii.gz"))}
            if label
            else {}
        )
        known = facts.pop("known", None)
        self.rows.append(CaseRow(name, f"p-{name}", ((str(image),),), labels, "test", known=known))
        if predicted is not None:
            array = box_labels(predicted)
            save(array, self.folder.predictions / f"{name}.nii.gz", affine)
            counts = {info.name: int((array == info.index).sum()) for info in CLASSES}
            side_car = {"case": name, "files": [f"{name}.nii.gz"], "seconds": 2.0, "peak_ram_bytes": 10**9}
            side_car |= {"voxels": counts, "volumes_ml": {k: n * 2.5 / 1000 for k, n in counts.items()}}
            write_json(self.folder.predictions / f"{name}.json", side_car | facts)
        return self

    def score(self, **sections):
        save_cohort(Cohort(tuple(self.rows), CLASSES, "test"), self.folder)
        return stage.run(pipeline(**sections), self.folder)

    @property
    def facts(self):
        return json.loads(self.folder.scores_json.read_text())

    @property
    def table(self):
        return pd.read_parquet(self.folder.scores_table)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_predictions_are_scored_against_labels(run):
    run.case("a", TRUTH, flags=[]).case("b", {1: (0, 4)}, flags=["right lung was not found"])
    result = run.score()
    assert result.done == 2
    assert result.review == {"b": "right lung was not found"}
    assert result.line.startswith("2 cases scored: mean Dice 0.750")
    assert "1 missed structures" in result.line
    facts = run.facts
    assert facts["mean"]["dice"] == 0.75
    assert facts["mean"]["iou"] == 0.75
    assert facts["per_class"]["right lung"]["misses"] == 1
    assert facts["worst"] == ["b", "a"]
    assert facts["per_case"]["a"]["dice"] == 1.0
    assert facts["cases"] == {"done": 2, "failed": 0, "skipped": 0, "review": 1}
    assert facts["cost"] == {"seconds_mean": 2.0, "seconds_max": 2.0, "peak_ram_gb": 1.0, "n": 2}
    assert facts["columns"]["hd95_mm"] == {"metric": "hd95_mm", "better": "low"}


def test_the_table_has_one_row_a_case_and_class_with_reasons(run):
    run.case("a", {1: (0, 4)})
    run.score()
    table = run.table
    assert list(table["class"]) == ["left lung", "right lung"]
    assert list(table["reason"]) == ["", "missed: absent in the prediction"]
    assert list(table["patient"]) == ["p-a", "p-a"]
    assert table["dice"].tolist() == [1.0, 0.0]
    assert table["tp"].tolist() == [64, 0]


def test_cases_without_a_label_or_a_prediction_are_named(run):
    run.case("a", TRUTH).case("b", TRUTH, label=False).case("c")
    run.folder.mark_done("predict", {"result": {"failed": {"c": "the image is damaged"}}})
    result = run.score()
    assert result.skipped == {"b": "has no label to be compared with"}
    assert result.failed == {"c": "no prediction: the image is damaged"}
    assert run.facts["cases"] == {"done": 1, "failed": 1, "skipped": 1, "review": 0}


def test_one_prediction_on_another_grid_fails_alone(run):
    moved = AFFINE.copy()
    moved[2, 3] = 10.0
    run.case("a", TRUTH).case("b", TRUTH, affine=moved)
    result = run.score()
    assert "the prediction and the reference are 10.00 mm apart" in result.failed["b"]
    assert result.done == 1


def test_a_lost_mask_is_named(run):
    run.case("a", TRUTH).case("b", TRUTH)
    (run.folder.predictions / "b.nii.gz").unlink()
    assert "the predicted mask is gone (b.nii.gz)" in run.score().failed["b"]


def test_without_any_label_nothing_is_scored_and_it_is_said(run):
    run.case("a", TRUTH, label=False)
    result = run.score()
    assert result.line == "nothing to score: no predicted case has a reference"
    assert run.facts["mean"] == {"dice": None, "iou": None, "hd95_mm": None}
    assert len(run.table) == 0


def test_classes_that_were_not_drawn_are_not_scored(run):
    run.case("a", {1: (0, 4)}, truth={1: (0, 4)}, known=("left lung",))
    run.score()
    assert run.table["reason"].tolist() == ["", "not labelled in this case"]
    assert run.facts["mean"]["dice"] == 1.0


def test_ignored_voxels_are_left_out(run):
    run.case("a", TRUTH, truth={**TRUTH, 9: (4, 5)})
    run.score(data={"ignore": 9})
    assert run.facts["mean"]["dice"] == 1.0


def test_side_cars_without_flags_are_judged_by_their_volumes(run):
    run.case("a", {1: (0, 4), 2: (5, 6)})
    assert run.score().review == {
        "a": "right lung is 64.0 times smaller than left lung"
    } or "training data" in str(run.score().review)


def test_unions_are_scored_and_checked(run):
    run.case("a", {1: (5, 9), 2: (0, 4)})
    run.score(score={"merge": {"lungs": ["left lung", "right lung"]}})
    assert run.facts["per_class"]["lungs"]["dice"] == 1.0
    assert run.facts["mean"]["dice"] == 0.0
    with pytest.raises(UserError, match="a part 'left lun' that is no class, did you mean left lung"):
        run.score(score={"merge": {"lungs": ["left lun"]}})


def test_settings_that_cannot_be_are_refused_before_any_case_is_read(run):
    run.case("a", TRUTH)
    with pytest.raises(UserError, match="no metric named 'dicee', did you mean dice"):
        run.score(score={"metrics": ["dicee"]})
    with pytest.raises(UserError, match="u-net needs training, so it cannot be a reference"):
        run.score(score={"reference": "u-net"})


def test_agreement_with_a_classical_system_is_called_agreement(run):
    """The image is dark but for two boxes: Otsu's threshold finds them, under a name of its own."""
    run.case("a", TRUTH, label=False)
    bright = (box_labels(TRUTH) > 0).astype(np.int16) * 500
    save(bright, run.path / "data" / "a.nii.gz")
    result = run.score(score={"reference": "threshold-otsu", "metrics": ["dice"]})
    assert run.facts["reference"] == "threshold-otsu"
    assert set(run.facts["unmatched"]) == {"left lung", "right lung", "foreground"}
    assert result.failed == {}
    save_plan_with_one_class(run)
    save((bright > 0).astype(np.uint8), run.folder.predictions / "a.nii.gz")
    result = run.score(
        score={"reference": "threshold-otsu", "metrics": ["dice"]}, data={"classes": {"foreground": 1}}
    )
    assert run.facts["mean"]["dice"] == 1.0
    assert "against threshold-otsu (agreement, not truth)" in result.line


def save_plan_with_one_class(run):
    from medseg.config_plan import load_plan

    plan = load_plan(run.folder.plan)
    save_plan(
        plan.model_copy(update={"classes": [replace(CLASSES[0], name="foreground").as_json()]}),
        run.folder.plan,
    )


def test_overlapping_classes_are_read_from_a_folder_a_class(run):
    from medseg.config_plan import load_plan

    plan = load_plan(run.folder.plan)
    save_plan(plan.model_copy(update={"overlapping": True, "out_channels": 2}), run.folder.plan)
    run.case("a", TRUTH)
    files = []
    for info in CLASSES:
        name = f"{info.name}/a.nii.gz"
        save((box_labels(TRUTH) == info.index).astype(np.uint8), run.folder.predictions / name)
        files.append(name)
    side_car = json.loads((run.folder.predictions / "a.json").read_text())
    write_json(run.folder.predictions / "a.json", side_car | {"files": files})
    run.score()
    assert run.facts["mean"]["dice"] == 1.0


def test_the_stage_shows_its_door():
    assert stage.WRITES == ("scores_table", "scores_json")
    assert set(stage.READS) == {"cases", "plan", "predictions"}
    assert all(hasattr(RunFolder, name) for name in (*stage.READS, *stage.WRITES))
    assert set(stage.KEYS) <= set(Pipeline.model_fields)


def test_a_class_that_a_dicom_segmentation_leaves_out_is_missed(run):
    from medseg.core.geometry import Geometry
    from medseg.core.segmentation import Segmentation
    from medseg.io.dicom.seg import write_seg
    from medseg.io.dicom.write_series import write_ct_series

    run.case("a", {1: (0, 4)})
    grid = Geometry((12, 12, 10), AFFINE)
    source = write_ct_series(np.zeros(grid.shape, np.int16), grid, run.path / "ct")
    mask = Segmentation(box_labels({1: (0, 4)}), grid, CLASSES)
    write_seg(mask, source, run.folder.predictions / "a.dcm")
    (run.folder.predictions / "a.nii.gz").unlink()
    side_car = json.loads((run.folder.predictions / "a.json").read_text())
    write_json(run.folder.predictions / "a.json", side_car | {"files": ["a.dcm"]})
    run.score()
    assert run.facts["per_class"]["left lung"]["dice"] == 1.0
    assert (run.facts["per_class"]["right lung"]["dice"], run.facts["misses"]) == (0.0, 1)


@pytest.mark.parametrize(
    ("model", "given", "learnt"),
    [
        ({"kind": "network", "plan": {}}, None, ["a", "b"]),
        ({"kind": "classical", "training": {"search": 3}, "plan": {}}, None, ["a", "b"]),
        ({"kind": "classical", "plan": {}}, None, []),
        ({"kind": "network", "plan": {}}, "OTHER", []),
        (None, None, []),
    ],
)
def test_cases_that_the_model_has_learnt_from_are_counted_beside_the_mean(
    run, monkeypatch, model, given, learnt
):
    for name in "abc":
        run.case(name, TRUTH, flags=[])
    run.rows = [replace(row, split="val" if row.case == "c" else "train") for row in run.rows]
    if model is not None:
        write_json(run.folder.model / "model.json", {})
        monkeypatch.setattr("medseg.model.facts.load_facts", lambda folder: model)
    line = run.score(predict={"model": given}).line
    assert run.facts["trained_on"] == learnt
    assert ("the model has learnt from 2 of them: no measure of new cases" in line) == bool(learnt)
