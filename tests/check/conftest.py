"""Small volumes on disk, and a run of the check over a folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def _volume(
    path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1, 1, 2.5), shift_mm: float = 0
) -> Path:
    import nibabel as nib

    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing, 1.0])
    affine[2, 3] = shift_mm
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def volume() -> Callable[..., Path]:
    """`volume(path, array, spacing, shift_mm)` writes a NIfTI file."""
    return _volume


@pytest.fixture
def scan() -> np.ndarray:
    """A volume of 8 x 8 x 6 voxels in Hounsfield units."""
    return np.random.default_rng(0).integers(-1000, 400, (8, 8, 6)).astype(np.int16)


@pytest.fixture
def mask() -> np.ndarray:
    """A label of the same size: class 1 has 8 voxels, class 2 has 4."""
    labels = np.zeros((8, 8, 6), np.uint8)
    labels[2:4, 2:4, 2:4] = 1
    labels[5:7, 5:7, 3] = 2
    return labels


@pytest.fixture
def cohort(tmp_path, scan, mask) -> Callable[..., Path]:
    """`cohort(n)` writes n labelled cases, each with another image, as folders `images` and `labels`."""

    def make(count: int = 4, name: str = "daten") -> Path:
        root = tmp_path / name
        for i in range(count):
            _volume(root / "images" / f"case_{i}.nii.gz", scan + np.int16(i))
            _volume(root / "labels" / f"case_{i}.nii.gz", mask)
        return root

    return make


@pytest.fixture
def run_check(tmp_path) -> Callable[..., Any]:
    """`run_check(system=..., **data)` runs the step; returns its result and the run folder."""
    from medseg.check.stage import run
    from medseg.config import Pipeline
    from medseg.core.run import RunFolder

    def go(system: str = "3d-u-net", predict: dict | None = None, **data: Any) -> Any:
        facts = {"name": "t", "system": system, "data": data, "compute": {"workers": 2}}
        pipeline = Pipeline.model_validate({**facts, **({"predict": predict} if predict else {})})
        folder = RunFolder(tmp_path / "run")
        return run(pipeline, folder), folder

    return go
