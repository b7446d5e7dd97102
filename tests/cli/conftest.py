"""A tiny cohort that walks the whole road in seconds: bright blobs in noise, mixed orientations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.cli import _main

CODES = ["RAS", "LPS", "RAS", "PIR", "RAS", "LAS", "RAS", "SLA"]


def blob(seed: int, shape: tuple[int, int, int] = (24, 28, 16)) -> tuple[np.ndarray, np.ndarray]:
    """An image and its label: a large bright ellipsoid (1) and a small very bright one (2) on the patient's left."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    label = np.zeros(shape, np.uint8)
    centre = np.array([15, 14, 8]) + rng.integers(-2, 3, 3)
    label[((x - centre[0]) / 6) ** 2 + ((y - centre[1]) / 7) ** 2 + ((z - centre[2]) / 5) ** 2 < 1] = 1
    label[((x - 5) / 3) ** 2 + ((y - centre[1]) / 4) ** 2 + ((z - centre[2]) / 4) ** 2 < 1] = 2
    image = rng.normal(0, 8, shape) + np.array([0, 60, 140])[label]
    return image.astype(np.int16), label


def store(array: np.ndarray, codes: str, path: Path) -> None:
    """Writes a RAS array of 2 x 2 x 3 mm voxels in another axis order."""
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    affine = np.diag([2.0, 2, 3, 1]) @ nib.orientations.inv_ornt_aff(turn, array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(nib.orientations.apply_orientation(array, turn), affine), path)


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/ and labels/ of eight cases, in a folder with spaces, an umlaut and a Chinese sign."""
    folder = tmp_path_factory.mktemp("data") / "Köhler 肺 cohort"
    for number, codes in enumerate(CODES):
        image, label = blob(number)
        store(image, codes, folder / "images" / f"case_{number}.nii.gz")
        store(label, codes, folder / "labels" / f"case_{number}.nii.gz")
    return folder


@pytest.fixture(scope="session")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline file that trains a tiny network for a few steps."""
    path = tmp_path_factory.mktemp("journey") / "tiny.yaml"
    path.write_text(
        "name: tiny\n"
        "data: {modality: mr, classes: {large: 1, small: 2}, split: {folds: 4, fold: 0}}\n"
        "ingest: {spacing_mm: [2, 2, 3]}\n"
        "system: {name: 3d-u-net, size: tiny}\n"
        "train: {steps: 60, patch_size: [16, 16, 16], batch_size: 2, optimizer: {rate: 0.01}, augment: none, precision: fp32}\n"
        "predict: {overlap: 0.25}\n"
        "compute: {device: cpu, cores: 1}\n"
    )
    return path


@pytest.fixture
def medseg(capfd: pytest.CaptureFixture) -> Callable:
    """Runs the command line in this process: returns (exit code, parsed JSON or text, standard error)."""

    def call(*arguments: object) -> tuple[int, object, str]:
        capfd.readouterr()
        code = _main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        try:
            return code, json.loads(out), err
        except json.JSONDecodeError:
            return code, out, err

    return call


@pytest.fixture(scope="session")
def finished(cohort: Path, journey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole run, made once: a run folder."""
    out = tmp_path_factory.mktemp("runs") / "tiny-1"
    assert _main(["run", str(journey), "--data", str(cohort), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="session")
def put_case() -> Callable[[Path, str, int, str], None]:
    """put_case(folder, name, seed, codes) writes images/name and labels/name."""

    def put(folder: Path, name: str, seed: int, codes: str = "RAS") -> None:
        image, label = blob(seed)
        store(image, codes, folder / "images" / f"{name}.nii.gz")
        store(label, codes, folder / "labels" / f"{name}.nii.gz")

    return put
