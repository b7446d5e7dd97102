"""From a DICOM series to NIfTI and DICOM-SEG masks that lie where the series lies, in millimetres."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from medseg.config import IntensityPlan, Pipeline, Plan, Predict, System
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.io.dicom.read_seg import read_pictures
from medseg.io.dicom.write_series import write_ct_series
from medseg.io.doors import read_image, read_segmentation
from medseg.model.folder import Model, save_model
from medseg.predict.case import Predictor, predict_case
from medseg.predict.folder import predict_folder
from medseg.predict.outputs import ProbabilityFile, formats_for, write_masks

BALL = ClassInfo("ball", 1, (255, 0, 0))
BOX = ClassInfo("box", 2, (0, 255, 0))


class Nearest(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([-(x - value).abs() for value in (0, -500, 500)], 1)


def a_model(spacing: list[float]) -> Model:
    plan = Plan(dims=3, in_channels=1, classes=[BALL.as_json(), BOX.as_json()], out_channels=3, spacing_mm=spacing,
                intensity=[IntensityPlan(scheme="none")], image_order=1, patch_size=[32, 32, 32], batch_size=1)  # fmt: skip
    return Model(Nearest().eval(), None, plan, (BALL, BOX), System(name="3d-u-net"), "0" * 64, {})


def body(geometry: Geometry) -> np.ndarray:
    places = geometry.to_world(np.moveaxis(np.indices(geometry.shape), 0, -1))
    corners = geometry.corners()
    apart = places - (corners.min(0) + corners.max(0)) / 2
    ball = np.linalg.norm(apart - (-11, 4, 3), axis=-1) < 8
    box = (np.abs(apart - (12, -6, -4)) < (5, 9, 7)).all(-1)
    return np.where(ball, -500, np.where(box, 500, 0)).astype(np.int16)


def turned(
    order: tuple[int, ...], signs: tuple[int, ...], tilt: float = 0.0, oblique: float = 0.0
) -> Geometry:
    matrix = np.zeros((3, 3))
    for column, (row, sign) in enumerate(zip(order, signs)):
        matrix[row, column] = sign
    if oblique:
        c, s = np.cos(oblique), np.sin(oblique)
        matrix = (
            np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
            @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
            @ matrix
        )
    affine = np.eye(4)
    affine[:3, :3] = matrix * (1.0, 1.0, 2.0)
    affine[:3, 2] += affine[:3, 1] * 2.0 * np.tan(np.radians(tilt))
    affine[:3, 3] = (13, -27, 41)
    return Geometry((56, 52, 26), affine)


GRIDS = [
    *(turned((0, 1, 2), signs) for signs in product((1, -1), repeat=3)),
    turned((1, 2, 0), (1, -1, 1)),
    turned((0, 2, 1), (-1, -1, 1)),
    turned((0, 1, 2), (-1, -1, 1), oblique=0.3),
    turned((0, 1, 2), (-1, -1, 1), tilt=15),
]


@pytest.mark.parametrize("number", range(len(GRIDS)))
def test_masks_of_a_series_lie_where_the_series_lies(number: int, tmp_path: Path) -> None:
    geometry = GRIDS[number]
    write_ct_series(body(geometry), geometry, tmp_path / "series")
    image = read_image(tmp_path / "series")
    seg = predict_case(a_model([1.0, 1.0, 1.0]), image, Predict(overlap=0.25))
    names, troubles = write_masks(seg, image, "a", ["nifti", "dicom_seg"], tmp_path / "out")
    assert troubles == []
    assert names == ["a.nii.gz", "a.dcm"]
    truth = body(geometry)
    for name in names:
        found = read_segmentation(tmp_path / "out" / name, onto=image.geometry)
        for info, value in ((BALL, -500), (BOX, 500)):
            ours = found.geometry.to_world(np.argwhere(found.labels == info.index)).mean(0)
            wanted = geometry.to_world(np.argwhere(truth == value)).mean(0)
            assert np.abs(ours - wanted).max() < 0.35
            volume = np.sum(found.labels == info.index) * found.geometry.voxel_volume_ml
            assert volume == pytest.approx(np.sum(truth == value) * geometry.voxel_volume_ml, rel=0.04)


def test_nothing_found_leaves_the_nifti_alone(tmp_path: Path) -> None:
    geometry = GRIDS[0]
    write_ct_series(np.zeros(geometry.shape, np.int16), geometry, tmp_path / "series")
    image = read_image(tmp_path / "series")
    seg = predict_case(a_model([2.0, 2.0, 2.0]), image)
    assert write_masks(seg, image, "a", ["nifti", "dicom_seg"], tmp_path / "out") == (["a.nii.gz"], [])


def test_a_series_that_cannot_carry_a_segmentation_keeps_its_nifti(tmp_path: Path, monkeypatch: Any) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise UserError("the centroid of ball moved by 12 mm")

    monkeypatch.setattr("medseg.io.dicom.seg.write_seg", refuse)
    geometry = GRIDS[0]
    write_ct_series(body(geometry), geometry, tmp_path / "series")
    image = read_image(tmp_path / "series")
    seg = predict_case(a_model([2.0, 2.0, 2.0]), image)
    names, troubles = write_masks(seg, image, "a", ["nifti", "dicom_seg"], tmp_path / "out")
    assert names == ["a.nii.gz"]
    assert troubles == ["no DICOM-SEG was written: the centroid of ball moved by 12 mm"]
    with pytest.raises(UserError, match="12 mm"):
        write_masks(seg, image, "a", ["dicom_seg"], tmp_path / "out")


def save_lung_threshold(folder: Path) -> Path:
    classes = [
        ClassInfo("left lung", 1, (1, 2, 3), laterality="left"),
        ClassInfo("right lung", 2, (3, 2, 1), laterality="right"),
    ]
    plan = Plan(dims=3, in_channels=1, classes=[c.as_json() for c in classes], out_channels=3,
                intensity=[IntensityPlan(scheme="none")], patch_size=[32, 32, 32], batch_size=1)  # fmt: skip
    save_model(folder, None, system=System(name="lung-threshold"), plan=plan)
    return folder


def test_a_real_chest_ct_gets_two_lungs_by_the_classical_method(shared_data: Path, tmp_path: Path) -> None:
    """The method's own values are others than the plan's: classes are matched by their names."""
    model = save_lung_threshold(tmp_path / "model")
    series = shared_data / "chest_ct_dicom" / "thorax_siemens_sensation10_8mm"
    settings: Any = Pipeline.model_validate(
        {"name": "predict", "system": "from-model", "compute": {"cores": 1}}
    )
    result = predict_folder(model, series, tmp_path / "out", settings)
    assert result.done == 1
    facts = next(json.loads(p.read_text()) for p in (tmp_path / "out").glob("*.json"))
    assert sorted(Path(n).suffix for n in facts["files"]) == [".dcm", ".gz"]
    volume = np.linalg.det(np.array(facts["geometry"]["affine"])[:3, :3])
    left, right = (facts["voxels"][name] * abs(volume) / 1000 for name in ("left lung", "right lung"))
    assert 800 < left < 4500
    assert 800 < right < 4500
    assert not [flag for flag in facts["flags"] if "right of" in flag]
    mask = nibabel.load(tmp_path / "out" / next(n for n in facts["files"] if n.endswith(".nii.gz")))
    x = [
        nibabel.affines.apply_affine(mask.affine, np.argwhere(np.asarray(mask.dataobj) == value)).mean(0)[0]
        for value in (1, 2)
    ]
    assert x[0] < x[1] - 80


def test_no_name_of_a_patient_reaches_the_masks_facts(shared_data: Path, tmp_path: Path) -> None:
    geometry = GRIDS[0]
    write_ct_series(body(geometry), geometry, tmp_path / "Export" / "s1", patient="CanaryNameXYZ")
    model = save_lung_threshold(tmp_path / "model")
    settings: Any = Pipeline.model_validate(
        {"name": "predict", "system": "from-model", "compute": {"cores": 1}}
    )
    result = predict_folder(model, tmp_path / "Export", tmp_path / "out", settings)
    texts = [p.read_text() for p in (tmp_path / "out").glob("*.json")]
    assert len(texts) == 1
    assert "Canary" not in "".join(texts) + result.line + str(result.review)
    assert "Canary" not in " ".join(p.name for p in (tmp_path / "out").rglob("*"))


def test_every_dicom_format_is_written_beside_the_nifti(tmp_path: Path) -> None:
    geometry = GRIDS[-1]
    write_ct_series(body(geometry), geometry, tmp_path / "series")
    image = read_image(tmp_path / "series")
    seg = predict_case(a_model([1.0, 1.0, 1.0]), image, Predict(overlap=0.25))
    formats = ["nifti", "dicom_seg", "dicom_labelmap", "rtstruct"]
    names, troubles = write_masks(seg, image, "a", formats, tmp_path / "out")
    assert (names, troubles) == (["a.nii.gz", "a.dcm", "a.labelmap.dcm", "a.rtstruct.dcm"], [])
    wanted = read_segmentation(tmp_path / "out" / names[0]).labels
    for name in names[1:]:
        found = read_segmentation(tmp_path / "out" / name, (BALL, BOX), onto=image.geometry)
        assert np.array_equal(found.labels, wanted)


def test_probabilities_are_written_as_a_fractional_segmentation(tmp_path: Path) -> None:
    geometry = GRIDS[0]
    write_ct_series(body(geometry), geometry, tmp_path / "series")
    model = a_model([2.0, 2.0, 2.0])
    image = read_image(tmp_path / "series")
    chances = ProbabilityFile(tmp_path / "out", 3)
    seg = Predictor(model, Predict(probabilities=True)).segment(image, sink=chances.sink)
    names = chances.write(seg, image, "a", True, tmp_path / "out", ["nifti", "dicom_fractional"])
    chances.close()
    assert names[-1] == "probabilities/a.fractional.dcm"
    geometry, pictures = read_pictures(tmp_path / "out" / names[-1])
    total = sum(int(picture.sum()) for segment, _, picture in pictures if segment == 1)
    ball = read_image(tmp_path / "out" / "probabilities" / "ball" / "a.nii.gz").array
    assert total / 255 == pytest.approx(float(ball.sum()), rel=0.01)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (["rtstruct"], "only DICOM images can get an RTSTRUCT"),
        (["dicom_labelmap"], "only DICOM .* a DICOM-SEG"),
    ],
)
def test_formats_that_need_a_series_are_refused_without_one(write: list[str], message: str) -> None:
    image = Image(np.zeros((1, 4, 4, 4), np.float32), GRIDS[0].cropped((0, 0, 0), (4, 4, 4)))
    with pytest.raises(UserError, match=message):
        formats_for(image, Predict(write=write))


def test_a_fractional_segmentation_asks_for_probabilities(tmp_path: Path) -> None:
    write_ct_series(body(GRIDS[0]), GRIDS[0], tmp_path / "series")
    with pytest.raises(UserError, match="holds probabilities, which were not asked for"):
        formats_for(read_image(tmp_path / "series"), Predict(write=["dicom_fractional"]))
