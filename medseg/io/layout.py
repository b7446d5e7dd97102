"""What the header of an NRRD or MetaImage file says about its voxels, and the affine that both formats speak of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry

IN_DOUBT = "left and right are in doubt"
"""What notes say where a header contradicts itself or is silent about sides; such a case is looked at by a person."""

HU_IN_DOUBT = "Hounsfield units are in doubt"
"""What notes say where a CT does not tell how its numbers become HU."""

END_IN_DOUBT = "slices may be lacking at an end"
"""What notes say where a file that may be a slice cannot be read: at an end no gap tells that it is lost."""

DOUBTS = (IN_DOUBT, HU_IN_DOUBT, END_IN_DOUBT)
"""Words of a reader's notes that make a case one to look at."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Layout:
    """What a header says: the grid, how voxels are stored and where.

    stored: sizes of all axes, the fastest first. value_axis: the axis that runs over values of one voxel, or None.
    skip: bytes before the voxels, -1 for "at the end of the file".
    """

    geometry: Geometry
    stored: tuple[int, ...]
    value_axis: int | None
    dtype: np.dtype
    encoding: str
    file: Path
    skip: int
    notes: tuple[str, ...] = ()


def beside(path: Path, name: str) -> Path:
    """The data file `name` in the folder of `path`; names that lead elsewhere are refused."""
    plain = re.split(r"[\\/]", name)
    other = path.parent / name
    if len(plain) > 1 or name in ("", ".", "..") or other.resolve().parent != path.parent.resolve():
        raise UserError(
            "points to a data file outside its own folder", path.name, "put the data file beside the header"
        )
    return other


def affine_of(
    axes: Sequence[Sequence[float] | None], origin: Sequence[float], signs: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Direction vectors with their lengths, one an axis, and a first position -> a 4x4 affine in RAS+."""
    affine = np.eye(4)
    for n, vector in enumerate(axes):
        affine[:3, n] = 0.0
        affine[: len(vector or ()), n] = vector or ()
    affine[: len(origin), 3] = origin
    if len(axes) == 2:
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        affine[:3, 2] = normal / max(float(np.linalg.norm(normal)), 1e-30)
    affine = np.diag([*signs, 1.0]) @ affine
    return affine


def lps_affine(geometry: Geometry) -> npt.NDArray[np.float64]:
    """The grid's 4x4 affine in LPS millimetres, as ITK's formats have it; adding zero turns -0.0 into 0.0."""
    return LPS_TO_RAS @ geometry.affine + 0.0


def numbers_text(values: Sequence[float] | npt.NDArray[np.float64], comma: str = " ") -> str:
    """Numbers as text that reads back to the same bits."""
    return comma.join(repr(float(v)) for v in values)
