"""No mask stays that the last call did not make, and a mask that somebody changed is told from one that was written."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from medseg.config import IntensityPlan, Pipeline, Plan, System
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.data.rows import CaseRow
from medseg.io.dicom.write_series import write_ct_series
from medseg.io.doors import content_hash
from medseg.model.folder import build_system, save_model
from medseg.predict import many
from medseg.predict.folder import predict_folder
from medseg.predict.job import Task
from medseg.predict.outputs import discard


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(0)
    plan = Plan(dims=3, in_channels=1, classes=[ClassInfo("organ", 1, (1, 2, 3)).as_json()], out_channels=2,
                spacing_mm=[2.0, 2.0, 2.0], intensity=[IntensityPlan(scheme="window", low=-1000, high=400)],
                image_order=1, patch_size=[16, 16, 16], batch_size=1)  # fmt: skip
    system = System(name="3d-u-net", size="tiny")
    folder = tmp_path_factory.mktemp("model") / "model"
    net = build_system(system, plan)
    with torch.no_grad():  # the organ is everywhere, so that every format has something to hold
        next(p for name, p in net.named_parameters() if name == "head.bias")[:] = torch.tensor([-9.0, 9.0])
    save_model(folder, net, system=system, plan=plan)
    return folder


def settings(**predict: Any) -> Pipeline:
    return Pipeline.model_validate({"name": "predict", "system": "from-model", "compute": {"cores": 1},
                                    "predict": {"precision": "fp32", **predict}})  # fmt: skip


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-300, 400, (18, 16, 20)).astype(np.int16)


def image(folder: Path, name: str = "scan", seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(noise(seed), np.diag([2.0, 2, 2, 1])), folder / f"{name}.nii.gz")
    return folder


def left(out: Path) -> set[str]:
    """Endings of what lies in a folder of masks for its cases."""
    files = (p.relative_to(out) for p in out.rglob("*") if p.is_file())
    return {
        ".".join(["", *p.name.split(".")[1:]])
        for p in files
        if p.parts[0] not in ("manifest", "private", ".engine")
    } - {".json"}


def manifest(out: Path) -> list[dict]:
    return json.loads((out / "manifest" / "manifest.json").read_text())["cases"]


def test_masks_of_formats_that_are_not_asked_for_any_more_are_gone(model: Path, tmp_path: Path) -> None:
    write_ct_series(noise(), Geometry((18, 16, 20), np.diag([-2.0, -2, 2, 1])), tmp_path / "in")
    out = tmp_path / "out"
    predict_folder(model, tmp_path / "in", out, settings(write=["nifti", "dicom_seg", "rtstruct"]))
    assert left(out) == {".nii.gz", ".dcm", ".rtstruct.dcm"}
    predict_folder(model, tmp_path / "in", out, settings(write=["nrrd"]))
    assert left(out) == {".nrrd"}


def test_probabilities_of_an_earlier_image_do_not_stay(model: Path, tmp_path: Path) -> None:
    cases, out = image(tmp_path / "in"), tmp_path / "out"
    predict_folder(model, cases, out, settings(probabilities=True))
    assert list((out / "probabilities").rglob("*.nii.gz"))
    image(cases, seed=1)
    predict_folder(model, cases, out, settings())
    assert not list((out / "probabilities").rglob("*.nii.gz"))


@pytest.mark.parametrize(("change", "words"), [(b"", "scan.nii.gz is not as it was written"), (None, "scan.nii.gz is gone")])  # fmt: skip
def test_a_mask_that_was_changed_is_one_to_look_at(
    model: Path, tmp_path: Path, change: bytes | None, words: str
) -> None:
    from medseg.predict.manifest import write_manifest

    cases, out = image(tmp_path / "in"), tmp_path / "out"
    predict_folder(model, cases, out, settings())
    assert words not in manifest(out)[0]["flags"]
    if change is None:
        (out / "scan.nii.gz").unlink()
    else:
        (out / "scan.nii.gz").write_bytes(change)
    write_manifest(out)
    assert manifest(out)[0]["state"] == "review"
    assert manifest(out)[0]["flags"][-1] == words


def test_a_mask_that_was_corrected_by_hand_is_kept(model: Path, tmp_path: Path) -> None:
    cases, out = image(tmp_path / "in"), tmp_path / "out"
    predict_folder(model, cases, out, settings())
    nibabel.save(
        nibabel.Nifti1Image(np.ones((18, 16, 20), np.uint8), np.diag([2.0, 2, 2, 1])), out / "scan.nii.gz"
    )
    corrected = (out / "scan.nii.gz").read_bytes()
    predict_folder(model, cases, out, settings())
    assert (out / "scan.nii.gz").read_bytes() == corrected


def test_nothing_outside_the_folder_of_masks_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    kept = image(tmp_path / "in") / "scan.nii.gz"
    (out / "scan.json").write_text(json.dumps({"case": "scan", "files": ["../in/scan.nii.gz", str(kept)]}))
    discard(out, "scan")
    assert kept.is_file()
    assert not (out / "scan.json").exists()


def test_a_case_whose_channels_change_places_is_not_taken_for_done(tmp_path: Path) -> None:
    files = [tmp_path / "t1.nii.gz", tmp_path / "t2.nii.gz"]
    for file in files:
        file.write_bytes(file.name.encode())
    first, second = ((str(file),) for file in files)
    job = SimpleNamespace(predictor=SimpleNamespace(model=SimpleNamespace(classical=None)))

    def content(*channels: tuple[str, ...]) -> str:
        row = CaseRow("a", "a", channels)
        found = many._contents([job], Task("a", None, tuple(n for c in channels for n in c), row=row))  # type: ignore[list-item, arg-type]
        return found[0]

    assert content(first, second) != content(second, first)
    assert content(first) == content_hash([files[0]])  # results of one channel, of before as well, are kept
    assert content((*first, *second)) == content((*second, *first))  # slices of one series, in any order
