"""Where voxels lie: shape and affine of a grid.

An affine maps voxel indices (i, j, k, 1) to millimetres in RAS+ (x to the patient's Right, y to Anterior, z to
Superior). Array axes are in the order of the affine's columns, as nibabel and MONAI have them. Photographs have two
axes (rows, columns), unit "px" and an identity affine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError

Affine = npt.NDArray[np.float64]

GRID_TOLERANCE_VOXELS = 0.01
"""Two grids whose corners lie closer than this share of a voxel are the same grid."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """A grid of voxels in space.

    shape: number of voxels along each axis, 2 or 3 axes.
    affine: 4x4, voxel index -> mm in RAS+; for two axes the third column is a unit vector that is never used.
    unit: "mm" for volumes, "px" for photographs.
    """

    shape: tuple[int, ...]
    affine: Affine = field(default_factory=lambda: np.eye(4))
    unit: Literal["mm", "px"] = "mm"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        affine = np.array(self.affine, dtype=np.float64)
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        if len(self.shape) not in (2, 3) or min(self.shape) < 1:
            raise UserError(f"a grid has 2 or 3 axes of at least one voxel, got shape {self.shape}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise UserError(f"an affine is 4x4 and finite, got {affine.tolist()}")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise UserError(
                f"the affine does not span space (determinant 0), spacing {self.spacing}",
                hint="the header's spacing or orientation is broken; export the image again",
            )

    @classmethod
    def pixels(cls, shape: Sequence[int]) -> Geometry:
        """The grid of a photograph: rows and columns, unit px."""
        return cls(tuple(shape), np.eye(4), "px")

    @classmethod
    def from_spacing(
        cls, shape: Sequence[int], spacing: Sequence[float], origin: Sequence[float] = (0, 0, 0)
    ) -> Geometry:
        """An axis-aligned RAS grid with `spacing` mm between voxel centres."""
        affine = np.eye(4)
        affine[range(len(spacing)), range(len(spacing))] = spacing
        affine[: len(origin), 3] = origin
        return cls(tuple(shape), affine)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @cached_property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbouring voxel centres along each axis, in `unit`."""
        return tuple(float(n) for n in np.linalg.norm(self.affine[:3, : self.ndim], axis=0))

    @cached_property
    def voxel_volume_ml(self) -> float | None:
        """Volume of one voxel in millilitres (from the determinant, so shear counts); None for photographs."""
        if self.unit != "mm" or self.ndim != 3:
            return None
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)

    @cached_property
    def axis_codes(self) -> str:
        """The patient direction each axis grows towards, e.g. "RAS" or "LPS"; "" for photographs."""
        if self.unit != "mm" or self.ndim != 3:
            return ""
        order, signs = closest_axes(self.affine)
        letters = [("L", "R"), ("P", "A"), ("I", "S")]
        return "".join(letters[order[axis]][signs[axis] > 0] for axis in range(3))

    @cached_property
    def is_orthogonal(self) -> bool:
        """Whether the axes stand at right angles (within 0.06 degrees)."""
        if self.ndim != 3:
            return True
        unit = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        return bool(np.abs(unit.T @ unit - np.eye(3)).max() < 1e-3)

    def to_world(self, index: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Voxel indices (..., ndim) -> mm (..., 3)."""
        points = np.asarray(index, dtype=np.float64)
        return points @ self.affine[:3, : points.shape[-1]].T + self.affine[:3, 3]

    def to_index(self, world: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """mm (..., 3) -> fractional voxel indices (..., 3)."""
        inverse = np.linalg.inv(self.affine)
        return np.asarray(world, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]

    def corners(self) -> npt.NDArray[np.float64]:
        """World positions in mm of the 2**ndim corner voxel centres."""
        return self.to_world(list(product(*((0, n - 1) for n in self.shape))))

    def distance_mm(self, other: Geometry) -> float:
        """The largest distance between corresponding corner voxel centres of two grids of one shape."""
        if self.shape != other.shape:
            return float("inf")
        return float(np.linalg.norm(self.corners() - other.corners(), axis=1).max())

    def same_grid(self, other: Geometry, tolerance_voxels: float = GRID_TOLERANCE_VOXELS) -> bool:
        """Whether the two grids agree in shape and, to a share of the smallest voxel edge, in place."""
        return self.shape == other.shape and self.distance_mm(other) <= tolerance_voxels * min(self.spacing)

    def describe(self) -> str:
        """One line for people, e.g. `512x512x120 voxels of 0.70x0.70x2.50 mm, LPS`."""
        shape = "x".join(str(n) for n in self.shape)
        if self.unit == "px":
            return f"{shape} px"
        spacing = "x".join(f"{s:.3g}" for s in self.spacing)
        return f"{shape} voxels of {spacing} mm, {self.axis_codes or 'plane'}, first voxel at {tuple(np.round(self.affine[:3, 3], 2).tolist())}"

    def require_same_grid(self, other: Geometry, ours: str, theirs: str, where: str) -> None:
        """Raises UserError with both grids and the distance between them in mm unless they are one grid."""
        if self.same_grid(other):
            return
        distance = self.distance_mm(other)
        apart = "have different shapes" if np.isinf(distance) else f"are {distance:.2f} mm apart"
        raise UserError(
            f"{ours} and {theirs} {apart} (allowed: {GRID_TOLERANCE_VOXELS} voxel)",
            where,
            "resample the label onto the image's grid, or set data.grid: resample to let medseg do it",
            (f"{ours}: {self.describe()}", f"{theirs}: {other.describe()}"),
        )

    def reoriented(self) -> tuple[Geometry, tuple[int, ...], tuple[int, ...]]:
        """The same voxels with axes permuted and flipped to the closest RAS+ order.

        Returns the new geometry, the permutation (new axis a is old axis order[a]) and the flips (new axes that run
        backwards). Photographs stay as they are. Apply with `reorient_array`, undo with `restore_array`.
        """
        if self.ndim != 3 or self.unit == "px":
            return self, tuple(range(self.ndim)), ()
        axes, signs = closest_axes(self.affine)
        order = tuple(axes.index(world) for world in range(3))
        flips = tuple(new for new, old in enumerate(order) if signs[old] < 0)
        affine = np.array(self.affine)
        affine[:3, :3] = self.affine[:3, list(order)]
        shape = tuple(self.shape[old] for old in order)
        for axis in flips:
            affine[:3, 3] += affine[:3, axis] * (shape[axis] - 1)
            affine[:3, axis] *= -1
        return Geometry(shape, affine, self.unit), order, flips

    def cropped(self, low: Sequence[int], shape: Sequence[int]) -> Geometry:
        """The grid of the box that starts at voxel `low` (may be negative: padding) and has `shape` voxels."""
        affine = np.array(self.affine)
        affine[:3, 3] += affine[:3, : self.ndim] @ np.asarray(low, dtype=np.float64)
        return Geometry(tuple(shape), affine, self.unit)

    def with_spacing(self, spacing: Sequence[float], shape: Sequence[int] | None = None) -> Geometry:
        """The same field of view sampled at another spacing (edges of the field, not voxel centres, stay in place)."""
        old = np.asarray(self.spacing)
        new_shape = shape or [max(1, round(n * o / s)) for n, o, s in zip(self.shape, old, spacing)]
        # Edges align, so the true new spacing follows from the whole number of voxels.
        scale = np.asarray(self.shape, dtype=np.float64) / np.asarray(new_shape, dtype=np.float64)
        affine = np.array(self.affine)
        affine[:3, 3] += affine[:3, : self.ndim] @ ((scale - 1) / 2)
        affine[:3, : self.ndim] = affine[:3, : self.ndim] * scale
        return Geometry(tuple(new_shape), affine, self.unit)

    def as_json(self) -> dict[str, object]:
        return {"shape": list(self.shape), "affine": self.affine.tolist(), "unit": self.unit}

    @classmethod
    def from_json(cls, facts: dict) -> Geometry:
        return cls(tuple(facts["shape"]), np.asarray(facts["affine"]), facts["unit"])


def closest_axes(affine: Affine) -> tuple[list[int], list[int]]:
    """For each voxel axis the world axis (0 x, 1 y, 2 z) it runs along most, each used once, and its sign."""
    matrix = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # The best assignment of the six: greedy choices can hand one world axis to two voxel axes at 45 degrees.
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    best = max(orders, key=lambda o: sum(abs(matrix[o[a], a]) for a in range(3)))
    return list(best), [1 if matrix[best[a], a] >= 0 else -1 for a in range(3)]


def reorient_array(array: npt.NDArray, order: Sequence[int], flips: Sequence[int]) -> npt.NDArray:
    """Permutes and flips the last len(order) axes of `array` as `Geometry.reoriented` says (a view)."""
    lead = array.ndim - len(order)
    moved = array.transpose(*range(lead), *(lead + o for o in order))
    return np.flip(moved, tuple(lead + axis for axis in flips)) if flips else moved


def restore_array(array: npt.NDArray, order: Sequence[int], flips: Sequence[int]) -> npt.NDArray:
    """The inverse of `reorient_array` (a view)."""
    lead = array.ndim - len(order)
    unflipped = np.flip(array, tuple(lead + axis for axis in flips)) if flips else array
    back = [int(n) for n in np.argsort(order)]
    return unflipped.transpose(*range(lead), *(lead + o for o in back))
