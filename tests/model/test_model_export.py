"""Exports are compared with the model before they are given out, and `medseg model` says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from medseg.cli import cli
from medseg.config import IntensityPlan, Plan, System
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo
from medseg.model import export as exporting
from medseg.model.export import export_model
from medseg.model.folder import build_system, load_model, save_model
from medseg.model.parity import agreement


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    plan = Plan(dims=3, in_channels=1, classes=[ClassInfo("organ", 1, (1, 2, 3)).as_json()], out_channels=2,
                spacing_mm=[1.0, 1.0, 2.0], patch_size=[16, 16, 16], batch_size=1,
                intensity=[IntensityPlan(scheme="window", low=-1000, high=400, shift=-300, scale=700)])  # fmt: skip
    system = System(name="3d-u-net", size="tiny", arguments={"norm": "instance"})
    folder = tmp_path_factory.mktemp("model") / "model"
    save_model(folder, build_system(system, plan), system=system, plan=plan)
    return folder


@pytest.mark.parametrize("form", ["torchscript", "monai-bundle", "onnx", "openvino"])
def test_an_export_gives_the_labels_of_the_model(form: str, model: Path, tmp_path: Path) -> None:
    for module in {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}.get(form, ()):
        pytest.importorskip(module)
    facts = export_model(model, form, tmp_path / "out")
    assert facts["dice"] >= 0.999
    assert facts["voxels_equal"] >= 0.999
    kept = json.loads((tmp_path / "out" / "medseg.json").read_text())
    assert kept["input"]["shape"] == [1, 1, 16, 16, 16]
    assert set(kept["files"]) == {
        str(p.relative_to(tmp_path / "out"))
        for p in (tmp_path / "out").rglob("*")
        if p.is_file() and p.name != "medseg.json"
    }


def test_a_bundles_steps_prepare_an_image_like_the_model(model: Path, tmp_path: Path) -> None:
    import nibabel
    from monai.bundle import ConfigParser

    from medseg.ingest.prepare import prepare_image
    from medseg.io.doors import read_image

    export_model(model, "monai-bundle", tmp_path / "b")
    array = np.random.default_rng(0).normal(-300, 300, (12, 14, 10)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 2.0, 1.0])), tmp_path / "x.nii.gz")
    parser = ConfigParser()
    parser.read_config(str(tmp_path / "b" / "configs" / "inference.json"))
    parser["bundle_root"] = str(tmp_path / "b")
    theirs = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "x.nii.gz")})["image"]
    ours = prepare_image(read_image(tmp_path / "x.nii.gz"), load_model(model).plan).array
    assert np.allclose(np.asarray(theirs), ours, atol=1e-4)


def test_a_bundle_averages_fine_voxels_as_the_model_does(tmp_path: Path) -> None:
    import nibabel
    from monai.bundle import ConfigParser

    from medseg.ingest.prepare import prepare_image
    from medseg.io.doors import read_image

    plan = Plan(dims=3, in_channels=1, classes=[ClassInfo("organ", 1, (1, 2, 3)).as_json()], out_channels=2,
                spacing_mm=[4.0, 4.0, 5.0], patch_size=[16, 16, 16], batch_size=1, image_order=1, margin=2,
                intensity=[IntensityPlan(scheme="window", low=-1000, high=400, shift=-300, scale=700)])  # fmt: skip
    system = System(name="3d-u-net", size="tiny", arguments={"norm": "instance"})
    save_model(tmp_path / "model", build_system(system, plan), system=system, plan=plan)
    export_model(tmp_path / "model", "monai-bundle", tmp_path / "b")
    affine = np.diag([-1.1, 0.9, 1.7, 1.0])
    noise = np.random.default_rng(0).normal(-300, 150, (61, 53, 37))
    blob = np.full((61, 53, 37), -900.0)
    blob[14:30, 20:44, 9:21] = 300
    found = {}
    for name, array in (("noise", noise), ("blob", blob)):
        nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), affine), tmp_path / f"{name}.nii.gz")
        parser = ConfigParser()
        parser.read_config(str(tmp_path / "b" / "configs" / "inference.json"))
        theirs = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / f"{name}.nii.gz")})[
            "image"
        ]
        ours = prepare_image(read_image(tmp_path / f"{name}.nii.gz"), plan)
        found[name] = (np.asarray(theirs)[0], np.asarray(theirs.affine), ours.array[0], ours.geometry.affine)
    theirs, _, ours, _ = found["noise"]
    assert not theirs[:2].any()  # the margin
    assert theirs[2:-2, 2:-2, 2:-2].std() == pytest.approx(ours.std(), rel=0.15)
    theirs, their_affine, ours, our_affine = found["blob"]
    places = [
        a[:3, :3] @ np.argwhere(image > 0).mean(0) + a[:3, 3]
        for image, a in ((theirs, their_affine), (ours, our_affine))
    ]
    assert np.abs(places[0] - places[1]).max() < 2  # mm, half a voxel: the grids begin elsewhere
    said = (tmp_path / "b" / "docs" / "README.md").read_text()
    assert "pytorch-ignite" in said
    assert "components are not sorted out" in said


@pytest.mark.parametrize(("step", "tolerance"), [(None, 1e-4), ([2.0, 2.0], 0.25)])
def test_a_bundles_steps_keep_the_rows_of_a_photograph(
    step: list[float] | None, tolerance: float, tmp_path: Path
) -> None:
    from monai.bundle import ConfigParser
    from PIL import Image as Picture

    from medseg.ingest.prepare import prepare_image
    from medseg.io.doors import read_image

    plan = Plan(dims=2, in_channels=3, classes=[ClassInfo("sky", 1, (1, 2, 3)).as_json()], out_channels=2,
                spacing_px=step, patch_size=[16, 16], batch_size=1, image_order=1,
                intensity=[IntensityPlan(scheme="rgb", shift=127.5, scale=63.75)] * 3)  # fmt: skip
    system = System(name="u-net", size="tiny")
    save_model(tmp_path / "model", build_system(system, plan), system=system, plan=plan)
    export_model(tmp_path / "model", "monai-bundle", tmp_path / "b")
    rows, columns = np.mgrid[:24, :40]
    picture = np.stack([9 * rows, 6 * columns, 3 * (rows + columns)], axis=-1).astype(np.uint8)
    Picture.fromarray(picture).save(tmp_path / "x.png")
    parser = ConfigParser()
    parser.read_config(str(tmp_path / "b" / "configs" / "inference.json"))
    theirs = parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "x.png")})["image"]
    ours = prepare_image(read_image(tmp_path / "x.png"), plan).array
    assert theirs.shape == ours.shape
    assert np.allclose(np.asarray(theirs), ours, atol=tolerance)


def test_an_export_that_gives_other_labels_is_not_given_out(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(loaded: object, window: torch.Tensor, part: Path) -> object:
        (part / "model.ts").write_bytes(b"x")
        return lambda image: torch.randn(1, 2, 16, 16, 16)

    monkeypatch.setitem(exporting._WRITERS, "torchscript", wrong)
    with pytest.raises(UserError, match="gives other labels: Dice 0"):
        export_model(model, "torchscript", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_missing_libraries_and_wrong_wishes_are_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr("medseg.model.convert.import_module", absent)
    for form, name in (("onnx", "ONNX"), ("openvino", "OpenVINO")):
        with pytest.raises(UserError, match=f"{name} is not installed") as caught:
            export_model(model, form, tmp_path / "out")
        assert "pip install 'medseg[infer]'" in str(caught.value)
    with pytest.raises(UserError, match="no form 'coreml'"):
        export_model(model, "coreml", tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already"):
        export_model(model, "onnx", tmp_path / "there")


def test_agreement_counts_labels_and_not_bits() -> None:
    logits = torch.tensor([[[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]]])
    same = agreement(logits + 1e-3, logits, True, False)
    assert (same.dice, same.voxels) == (1.0, 1.0)
    other = logits.clone()
    other[0, :, 3] = torch.tensor([1.0, 0.0])
    assert agreement(other, logits, True, False).dice == pytest.approx(0.8)
    nothing = torch.tensor([[[1.0], [0.0]]])
    assert agreement(nothing, nothing, True, False).dice == 1.0
    assert agreement(logits, logits, False, True).dice == 1.0


def test_the_verbs_say_what_they_found(model: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(cli, ["model", "verify", str(model)])
    assert run.exit_code == 0
    assert "whole and unchanged" in run.output
    facts = json.loads(CliRunner().invoke(cli, ["model", "verify", str(model), "--json"]).output)
    assert facts["classes"] == ["organ"]
    assert len(facts["weights_sha256"]) == 64
    done = CliRunner().invoke(
        cli, ["model", "export", str(model), "--to", "torchscript", "--out", str(tmp_path / "ts")]
    )
    assert done.exit_code == 0
    assert "Dice 1.00000 against this model" in done.output


def test_a_changed_model_is_refused_by_verify(model: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(model, tmp_path / "m")
    with (tmp_path / "m" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    refused = CliRunner().invoke(cli, ["model", "verify", str(tmp_path / "m")])
    assert isinstance(refused.exception, UserError)
    assert "sha256" in str(refused.exception)


def test_import_refuses_to_write_over_something(model: Path, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"x")
    refused = CliRunner().invoke(
        cli, ["model", "import", str(tmp_path / "w.pth"), "--from", "nnunet", "--out", str(model)]
    )
    assert "exists already" in str(refused.exception)


def test_converters_report_to_nobody() -> None:
    import subprocess
    import sys
    from importlib.util import find_spec

    if find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    script = (
        "import sys; from medseg.model.convert import require; require('openvino', 'x'); import openvino.tools.ovc;"
        "sys.exit(sys.modules['openvino_telemetry'] is not None)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
