"""Folders of cases: one mask a case, named after the case; what fails is named, what is done stays done."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medseg.config import IntensityPlan, Pipeline, Plan, System
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.model.folder import build_system, save_model
from medseg.predict.api import predict
from medseg.predict.folder import predict_folder

CLASSES = (
    ClassInfo("left lung", 1, (255, 0, 0), laterality="left"),
    ClassInfo("right lung", 2, (0, 255, 0), laterality="right"),
)


def a_plan(**changes: Any) -> Plan:
    return Plan(
        **{
            "dims": 3,
            "in_channels": 1,
            "classes": [c.as_json() for c in CLASSES],
            "out_channels": 3,
            "spacing_mm": [2.0, 2.0, 2.0],
            "intensity": [IntensityPlan(scheme="window", low=-1000, high=400, shift=-300, scale=700)],
            "image_order": 1,
            "patch_size": [16, 16, 16],
            "batch_size": 1,
            **changes,
        }
    )


def save_tiny(folder: Path, seed: int = 0, **changes: Any) -> Path:
    import torch

    torch.manual_seed(seed)
    plan, system = a_plan(**changes), System(name="3d-u-net", size="tiny")
    save_model(folder, build_system(system, plan), system=system, plan=plan)
    return folder


def save_image(path: Path, seed: int = 0, codes: str = "LPS") -> Path:
    rng = np.random.default_rng(seed)
    array = rng.normal(-300, 400, (20, 22, 18)).astype(np.int16)
    affine = np.diag([-1.5, -1.5, 2.0, 1.0]) if codes == "LPS" else np.diag([1.5, 1.5, 2.0, 1.0])
    affine[:3, 3] = (12, 30, -40)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def settings(**sections: Any) -> Pipeline:
    return Pipeline.model_validate(
        {"name": "predict", "system": "from-model", "compute": {"cores": 1}, **sections}
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    folder = tmp_path / "Bilder mit Ümlaut 图像"
    folder.mkdir()
    for number, codes in enumerate(("LPS", "RAS", "LPS")):
        save_image(folder / f"Fall {number}ü.nii.gz", number, codes)
    return folder


def sidecars(out: Path) -> dict[str, dict]:
    return {p.stem: json.loads(p.read_text()) for p in sorted(out.glob("*.json"))}


def test_one_mask_a_case_on_the_grid_of_its_file(model: Path, cases: Path, tmp_path: Path) -> None:
    result = predict_folder(model, cases, tmp_path / "out", settings())
    assert result.done == 3
    for image in sorted(cases.iterdir()):
        source, mask = nibabel.load(image), nibabel.load(tmp_path / "out" / image.name)
        assert mask.shape == source.shape
        assert np.array_equal(mask.affine, source.affine)
        for form in ("qform_code", "sform_code", "pixdim", "quatern_b", "qoffset_x"):
            assert np.array_equal(mask.header[form], source.header[form]), form
        assert mask.get_data_dtype() == np.uint8


def test_the_json_of_a_case_says_what_was_done(model: Path, cases: Path, tmp_path: Path) -> None:
    predict_folder(model, cases, tmp_path / "out", settings())
    facts = sidecars(tmp_path / "out")["Fall 0ü"]
    mask = np.asarray(nibabel.load(tmp_path / "out" / facts["files"][0]).dataobj)
    assert facts["voxels"] == {"left lung": int((mask == 1).sum()), "right lung": int((mask == 2).sum())}
    assert facts["files"] == ["Fall 0ü.nii.gz"]
    assert facts["system"] == "3d-u-net-tiny"
    assert len(facts["model"]) == 64
    assert facts["seconds"] > 0
    assert facts["peak_ram_bytes"] > 1e7
    # Noise is everywhere, so the classes touch the border: no number is better than a wrong one.
    assert facts["volumes_ml"]["left lung"] is None or facts["voxels"]["left lung"] == 0
    assert any("border of the field of view" in note for note in facts["notes"])


def test_a_second_call_does_nothing_again_and_a_changed_image_is_done_again(
    model: Path, cases: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict_folder(model, cases, out, settings())
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir() if p.is_file()}
    again = predict_folder(model, cases, out, settings())
    assert (again.done, again.details["new"]) == (3, 0)
    assert before == {p.name: p.stat().st_mtime_ns for p in out.iterdir() if p.is_file()}
    save_image(cases / "Fall 1ü.nii.gz", 77)
    (out / "Fall 2ü.nii.gz").unlink()
    third = predict_folder(model, cases, out, settings())
    assert (third.done, third.details["new"]) == (3, 2)
    fourth = predict_folder(model, cases, out, settings(predict={"overlap": 0.25}))
    assert fourth.details["new"] == 3


def test_bad_cases_are_named_and_the_others_come_through(model: Path, cases: Path, tmp_path: Path) -> None:
    (cases / "empty.nii.gz").write_bytes(b"")
    (cases / "text.nii").write_text("this is no image")
    whole = save_image(tmp_path / "whole.nii").read_bytes()
    (cases / "short.nii").write_bytes(whole[: len(whole) // 2])
    broken = np.full((8, 8, 8), np.nan, np.float32)
    nibabel.save(nibabel.Nifti1Image(broken, np.eye(4)), cases / "nan.nii.gz")
    result = predict_folder(model, cases, tmp_path / "out", settings())
    assert result.done == 3
    assert set(result.failed) == {"empty", "text", "short", "nan"}
    assert "NaN" in result.failed["nan"]
    assert str(tmp_path) not in " ".join(result.failed.values())
    assert result.done + len(result.failed) == 7
    assert set(sidecars(tmp_path / "out")) == {"Fall 0ü", "Fall 1ü", "Fall 2ü"}


def test_masks_of_two_models_are_not_mixed(model: Path, cases: Path, tmp_path: Path) -> None:
    predict_folder(model, cases, tmp_path / "out", settings())
    other = save_tiny(tmp_path / "other", seed=5)
    with pytest.raises(UserError, match="masks of another model"):
        predict_folder(other, cases, tmp_path / "out", settings())


def test_a_folder_without_images_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match=r"no (cases|images)"):
        predict_folder(model, tmp_path / "nothing", tmp_path / "out", settings())


def test_when_no_case_comes_through_the_first_reasons_are_listed(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii").write_text("no")
    with pytest.raises(UserError, match="not one of 1 cases") as caught:
        predict_folder(model, tmp_path / "in", tmp_path / "out", settings())
    assert "case a" in str(caught.value)


def test_one_file_and_other_formats(model: Path, tmp_path: Path) -> None:
    image = save_image(tmp_path / "scan.v2.nii.gz")
    wanted = settings(predict={"write": ["nrrd", "mha", "nifti"]})
    predict_folder(model, image, tmp_path / "out", wanted)
    masks = {
        p.name
        for p in (tmp_path / "out").iterdir()
        if p.suffix != ".json" and p.is_file() and p.name != ".engine"
    }
    assert masks == {"scan.v2.nrrd", "scan.v2.mha", "scan.v2.nii.gz"}
    from medseg.io.doors import read_segmentation

    found = [read_segmentation(tmp_path / "out" / name) for name in sorted(masks)]
    assert all(np.array_equal(f.labels, found[0].labels) for f in found)
    assert all(f.geometry.same_grid(found[0].geometry) for f in found)
    result = None
    with pytest.raises(UserError, match="cannot be written as PNG"):
        result = predict_folder(model, image, tmp_path / "out2", settings(predict={"write": ["png"]}))
    assert result is None


def test_probabilities_lie_beside_the_masks_and_agree_with_them(model: Path, tmp_path: Path) -> None:
    image = save_image(tmp_path / "scan.nii.gz")
    out = tmp_path / "out"
    predict_folder(model, image, out, settings(predict={"probabilities": True}))
    labels = np.asarray(nibabel.load(out / "scan.nii.gz").dataobj)
    chances = np.stack(
        [nibabel.load(out / "probabilities" / c.name / "scan.nii.gz").get_fdata() for c in CLASSES]
    )
    assert chances.min() >= 0
    assert chances.sum(0).max() <= 1.001
    best = np.concatenate([1 - chances.sum(0, keepdims=True), chances])
    assert np.mean(best.argmax(0) == labels) > 0.999


def test_overlapping_classes_get_a_mask_each(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m", overlapping=True, background=False, out_channels=2)
    image = save_image(tmp_path / "scan.nii.gz")
    predict_folder(folder, image, tmp_path / "out", settings())
    assert sidecars(tmp_path / "out")["scan"]["files"] == ["left lung/scan.nii.gz", "right lung/scan.nii.gz"]
    right = np.asarray(nibabel.load(tmp_path / "out" / "right lung" / "scan.nii.gz").dataobj)
    assert set(np.unique(right)) <= {0, 2}


def test_a_case_that_does_not_fit_into_memory_is_refused_with_numbers(model: Path, tmp_path: Path) -> None:
    image = save_image(tmp_path / "scan.nii.gz")
    with pytest.raises(UserError, match="not one of 1 cases") as caught:
        predict_folder(model, image, tmp_path / "out", settings(compute={"ram": "20 MB", "cores": 1}))
    assert "GB of memory, 0.02 GB may be used" in str(caught.value)


def test_a_model_whose_window_alone_is_too_large_is_refused_before_one_is_made(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m", patch_size=[65536, 65536, 65536])
    image = save_image(tmp_path / "scan.nii.gz")
    with pytest.raises(UserError, match="one window of 65536x65536x65536 voxels"):
        predict_folder(folder, image, tmp_path / "out", settings())


def test_nothing_is_asked_of_the_network(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("prediction opened a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    predict_folder(model, save_image(tmp_path / "scan.nii.gz"), tmp_path / "out", settings())


def test_an_mr_image_and_raw_values_are_flagged(model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mr = np.abs(rng.normal(300, 200, (20, 20, 20))).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(mr, np.diag([2.0, 2, 2, 1])), tmp_path / "mr.nii.gz")
    result = predict_folder(model, tmp_path / "mr.nii.gz", tmp_path / "out", settings())
    assert "do not look like Hounsfield units" in result.review["mr"]


def test_the_python_api_gives_the_same_labels_in_this_process(model: Path, tmp_path: Path) -> None:
    path = save_image(tmp_path / "scan.nii.gz")
    predict_folder(model, path, tmp_path / "out", settings())
    written = np.asarray(nibabel.load(tmp_path / "out" / "scan.nii.gz").dataobj)
    assert np.array_equal(predict(model, path).labels, written)
    source = nibabel.load(path)
    pair = (np.asarray(source.dataobj), Geometry(source.shape, source.affine))
    assert np.array_equal(predict(model, pair).labels, written)
    with pytest.raises(UserError, match="does not lie on a grid"):
        predict(model, (pair[0][:-1], pair[1]))
    with pytest.raises(UserError, match="cannot predict from a int"):
        predict(model, 3)


def test_the_model_that_mlflow_stores_predicts_prepared_arrays(model: Path, tmp_path: Path) -> None:
    import mlflow

    from medseg.predict.pyfunc import save_pyfunc

    example = np.zeros((1, 1, 16, 16, 16), np.float32)
    save_pyfunc(model, tmp_path / "stored", example)
    assert not list((tmp_path / "stored").rglob("*.pkl"))
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "stored"))
    array = np.random.default_rng(0).normal(size=(2, 1, 20, 16, 24)).astype(np.float32)
    labels = loaded.predict(array)
    assert labels.shape == (2, 20, 16, 24)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) <= {0, 1, 2}


def test_a_mask_does_not_outlive_the_image_it_was_made_from(model: Path, cases: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_folder(model, cases, out, settings())
    (cases / "Fall 1ü.nii.gz").write_bytes(b"damaged since")
    result = predict_folder(model, cases, out, settings())
    assert (result.done, set(result.failed)) == (2, {"Fall 1ü"})
    assert not (out / "Fall 1ü.nii.gz").exists()
    assert set(sidecars(out)) == {"Fall 0ü", "Fall 2ü"}


def test_flags_are_told_again_when_nothing_is_done_again(model: Path, tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 8), np.int16), np.eye(4)), tmp_path / "blank.nii.gz")
    first = predict_folder(model, tmp_path / "blank.nii.gz", tmp_path / "out", settings())
    again = predict_folder(model, tmp_path / "blank.nii.gz", tmp_path / "out", settings())
    assert again.details["new"] == 0
    assert "the image is empty" in first.review["blank"]
    assert first.review == again.review
