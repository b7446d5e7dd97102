"""Small volumes and pictures that tests write to disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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


def _picture(path: Path, array: np.ndarray) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def volume() -> Callable[..., Path]:
    """`volume(path, array, spacing, shift_mm)` writes a NIfTI file."""
    return _volume


@pytest.fixture
def picture() -> Callable[..., Path]:
    """`picture(path, array)` writes a PNG or JPEG file."""
    return _picture


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
