"""The form that MLflow stores: prompts as a parameter, classes by name, and what it cannot do is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.orientations import io_orientation

from medseg.config import IntensityPlan, Plan, System
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.io.dicom.write_series import write_ct_series
from medseg.model.folder import save_model
from medseg.predict.pyfunc import ArrayModel, as_bytes, paths_of, save_pyfunc

CLASSES = (ClassInfo("big", 3, (255, 0, 0)), ClassInfo("small", 5, (0, 255, 0)))
SHAPE = (24, 26, 14)
SPACING = [1.5, 1.5, 2.0]


def a_model(folder: Path, name: str, classes: tuple[ClassInfo, ...] = CLASSES, **plan: Any) -> Path:
    facts = {
        "dims": 3, "in_channels": 1, "classes": [c.as_json() for c in classes], "out_channels": 3,
        "spacing_mm": SPACING, "intensity": [IntensityPlan(scheme="none")], "patch_size": [16] * 3, "batch_size": 1,
    }  # fmt: skip
    save_model(folder, None, system=System(name=name), plan=Plan(**{**facts, **plan}))
    return folder


def balls() -> tuple[np.ndarray, np.ndarray]:
    """Two bright balls in noise (1, *S), and their labels 3 and 5."""
    grid = np.indices(SHAPE).transpose(1, 2, 3, 0)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[((grid - [7, 12, 6]) ** 2).sum(-1) < 20] = 3
    labels[((grid - [17, 12, 6]) ** 2).sum(-1) < 12] = 5
    image = np.choose(np.searchsorted([0, 3, 5], labels), [10.0, 100.0, 60.0])
    return (image + np.random.default_rng(0).normal(0, 3, SHAPE))[None].astype(np.float32), labels


def at(*index: float) -> list[float]:
    return [float(i * s) for i, s in zip(index, SPACING, strict=True)]


POINTS = {
    "points": [
        {"class": "big", "at": at(7, 12, 6)},
        {"class": "small", "at": at(17, 12, 6)},
        {"class": "background", "at": at(1, 1, 1)},
    ]
}


@pytest.fixture(scope="module")
def walker(tmp_path_factory: pytest.TempPathFactory) -> ArrayModel:
    return ArrayModel(a_model(tmp_path_factory.mktemp("walker") / "model", "random-walker"))


def test_the_stored_model_takes_a_prompt_as_a_parameter(tmp_path: Path) -> None:
    import mlflow

    image, labels = balls()
    save_pyfunc(a_model(tmp_path / "model", "random-walker"), tmp_path / "stored", image[None])
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "stored"))
    assert [p.name for p in loaded.metadata.signature.params] == ["prompt"]
    found = loaded.predict(image[None], params={"prompt": json.dumps(POINTS)})
    assert (found.shape, found.dtype) == ((1, *SHAPE), np.uint8)
    for value in (3, 5):
        mine, true = found[0] == value, labels == value
        assert 2 * (mine & true).sum() / (mine.sum() + true.sum()) > 0.9
    with pytest.raises(UserError, match="random-walker needs a prompt, and image 0"):
        loaded.predict(image[None])


def test_every_image_of_a_batch_may_have_its_own_prompt(walker: ArrayModel) -> None:
    image, _ = balls()
    names = {"big": "small", "small": "big"}
    swapped = {"points": [{**p, "class": names.get(p["class"], "background")} for p in POINTS["points"]]}
    both = walker.predict(np.stack([image, image]), json.dumps([POINTS, swapped]))
    assert np.array_equal(np.array([0, 0, 0, 5, 0, 3])[both[0]], both[1])
    with pytest.raises(UserError, match="needs a prompt, and image 1"):
        walker.predict(np.stack([image, image]), json.dumps([POINTS, None]))
    with pytest.raises(UserError, match="1 prompts for 2 images"):
        walker.predict(np.stack([image, image]), json.dumps([POINTS]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("3", "the prompt is 3"),
        ('{"dots": []}', "the key 'dots'"),
        ('{"points": [{"class": "bigg", "at": [1, 1, 1]}]}', "did you mean big"),
        ('{"points": [{"class": "big", "at": [1, 1]}]}', "3 numbers"),
        ('{"points": [{"class": "big", "at": [1, 1, 1000]}]}', "outside"),
        ('{"frame": "LPS", "points": [{"class": "big", "at": [1, 1, 1]}]}', "no place in the patient"),
    ],
)
def test_a_prompt_that_cannot_be_meant_is_said(walker: ArrayModel, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        walker.predict(balls()[0][None], text)


def test_a_method_without_use_for_a_prompt_refuses_it(tmp_path: Path) -> None:
    model = ArrayModel(a_model(tmp_path / "model", "threshold-otsu"))
    assert model.predict(balls()[0][None]).any()
    with pytest.raises(UserError, match="threshold-otsu has no use for a prompt"):
        model.predict(balls()[0][None], json.dumps(POINTS))


def test_a_methods_classes_are_found_by_name_not_by_place(tmp_path: Path) -> None:
    classes = (ClassInfo("level 2", 1, (255, 0, 0)), ClassInfo("level 1", 7, (0, 255, 0)))
    found = ArrayModel(a_model(tmp_path / "model", "threshold-multi-otsu", classes)).predict(balls()[0][None])
    _, labels = balls()
    assert np.bincount(found[0][labels == 3]).argmax() == 1, "the brightest is level 2, which is 1 here"
    assert 7 in found


def test_values_that_do_not_fit_are_refused_rather_than_wrapped() -> None:
    assert as_bytes(np.array([0, 255])).dtype == np.uint8
    with pytest.raises(UserError, match="a class has the value 300"):
        as_bytes(np.array([0, 300]))


LUNGS = (ClassInfo("right lung", 1, (255, 0, 0)), ClassInfo("left lung", 2, (0, 255, 0)))
FRESH = """
import sys
import mlflow, numpy as np, pandas as pd
stored, out, *paths = sys.argv[1:]
column = pd.DataFrame({"path": paths})["path"]
found = mlflow.pyfunc.load_model(stored).predict(column.to_numpy(dtype=object))
np.savez(out, *found)
"""


def body() -> tuple[np.ndarray, Geometry]:
    """A body (X, Y, Z) of HU on an RAS grid, with a large right and a small left lung."""
    hu = np.full((48, 48, 24), -1000, np.int16)
    hu[6:42, 8:40, :] = 40
    hu[26:38, 12:36, 4:20] = -820
    hu[10:20, 14:34, 6:18] = -820
    hu += np.random.default_rng(0).normal(0, 10, hu.shape).astype(np.int16)
    return hu, Geometry.from_spacing(hu.shape, (7.0, 7.0, 10.0))


def test_a_new_process_predicts_from_paths_on_each_images_own_grid_and_sides(tmp_path: Path) -> None:
    hu, grid = body()
    upright = nibabel.Nifti1Image(hu, grid.affine)
    turned = upright.as_reoriented(io_orientation(np.diag([-1.0, 1, 1, 1])))  # stored from right to left
    nibabel.save(upright, tmp_path / "Bild ü.nii.gz")
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    flat = Geometry(hu.shape, np.diag([-7.0, -7.0, 10.0, 1.0]))
    write_ct_series(hu[::-1, ::-1], flat, tmp_path / "series")
    model = a_model(tmp_path / "model", "lung-threshold", LUNGS)
    save_pyfunc(model, tmp_path / "stored", np.zeros((1, 1, 16, 16, 16), np.float32))
    paths = [str(tmp_path / name) for name in ("Bild ü.nii.gz", "turned.nii.gz", "series")]
    words = [sys.executable, "-c", FRESH, str(tmp_path / "stored"), str(tmp_path / "out.npz"), *paths]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / "out.npz") as kept:
        plain, mirrored, sliced = (kept[f"arr_{number}"] for number in range(3))
    assert plain.shape == hu.shape
    assert plain.dtype == np.uint8
    assert plain[32, 24, 12] == 1, "x grows to the patient's right"
    assert plain[14, 24, 12] == 2
    assert np.array_equal(mirrored, plain[::-1]), "the same patient, stored from right to left"
    assert np.array_equal(sliced, plain[::-1, ::-1]), "the same patient, as a series"


def test_what_is_no_path_and_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    import mlflow

    save_pyfunc(a_model(tmp_path / "model", "threshold-otsu"), tmp_path / "stored", balls()[0][None])
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "stored"))
    with pytest.raises(UserError, match="image 1 of the batch is a float, expected a path"):
        loaded.predict(np.array(["a.nii.gz", 3.0], dtype=object))
    with pytest.raises(UserError, match="no such file") as caught:
        loaded.predict(np.array([str(tmp_path / "gone.nii.gz")], dtype=object))
    assert "gone.nii.gz" in str(caught.value)
    with pytest.raises(UserError, match="threshold-otsu has no use for a prompt"):
        loaded.predict(np.array(["a.nii.gz"], dtype=object), params={"prompt": json.dumps(POINTS)})


def test_one_path_alone_and_a_prompt_in_the_patients_mm(walker: ArrayModel, tmp_path: Path) -> None:
    image, labels = balls()
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (100, -50, 20)
    nibabel.save(nibabel.Nifti1Image(image[0], affine), tmp_path / "balls.nii.gz")
    prompt = {"points": [{**p, "at": [a + b for a, b in zip(p["at"], affine[:3, 3])]} for p in POINTS["points"]]}  # fmt: skip
    assert paths_of(str(tmp_path)) == [str(tmp_path)]
    assert paths_of(image) is None
    (found,) = walker.predict_paths([tmp_path / "balls.nii.gz"], json.dumps(prompt))
    for value in (3, 5):
        mine, true = found == value, labels == value
        assert 2 * (mine & true).sum() / (mine.sum() + true.sum()) > 0.9
