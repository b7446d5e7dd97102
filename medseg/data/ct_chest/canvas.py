"""A grid in the patient's frame that shapes are painted on, softly, so that edges keep their partial volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]
Box = tuple[slice, slice, slice]

AIR_HU = -1000.0
_BEND_MM = 16.0
"""No bent coordinate lies further than this from its straight one, so boxes are widened by it."""


class Canvas:
    """HU on an isotropic grid; x to the patient's right, y to the front, z to the head, in mm from the carina.

    Shapes are given as signed distances in mm (negative inside) of *bent* coordinates `x, y, z`: a smooth random
    displacement that makes every body crooked in its own way.
    """

    def __init__(
        self, low_mm: Sequence[float], high_mm: Sequence[float], step_mm: float, rng: np.random.Generator
    ) -> None:
        self.step_mm = float(step_mm)
        self.rng = rng
        self.axes = tuple(
            np.arange(low, high + step_mm, step_mm, dtype=np.float32) for low, high in zip(low_mm, high_mm)
        )
        self.shape = tuple(len(axis) for axis in self.axes)
        straight = np.meshgrid(*self.axes, indexing="ij", sparse=True)
        wide, fine = rng.uniform(2.0, 6.0), rng.uniform(0.3, 1.2)
        self.x, self.y, self.z = (
            line + np.clip(wide * self.noise(90.0) + fine * self.noise(24.0), -_BEND_MM, _BEND_MM)
            for line in straight
        )
        self.hu = np.full(self.shape, AIR_HU, dtype=np.float32)

    def noise(self, wavelength_mm: float, box: Box | None = None) -> Field:
        """Smooth random field of about unit standard deviation (cubic B-splines over a coarse random grid)."""
        axes = self.axes if box is None else tuple(axis[part] for axis, part in zip(self.axes, box))
        weights = [_spline_weights(axis, wavelength_mm / 2) for axis in axes]
        field = self.rng.standard_normal([w.shape[1] for w in weights]).astype(np.float32)
        weights[0] *= np.float32(3.0)
        return along_axes(field, weights)

    def box(self, low: Sequence[float], high: Sequence[float]) -> Box:
        """The part of the grid that can hold a shape lying between two corners in mm."""
        bounds = [
            np.searchsorted(axis, (a - _BEND_MM, b + _BEND_MM)) for axis, a, b in zip(self.axes, low, high)
        ]
        return tuple(slice(int(a), int(b)) for a, b in bounds)  # type: ignore[return-value]

    def around(self, centre: Sequence[float], radius: float) -> Box:
        """The box of a ball."""
        return self.box([c - radius for c in centre], [c + radius for c in centre])

    def at(self, box: Box) -> tuple[Field, Field, Field]:
        """Bent coordinates within a box, in mm."""
        return self.x[box], self.y[box], self.z[box]

    def cover(self, distance_mm: Field) -> Field:
        """How much of each voxel lies within the shape: 0 to 1."""
        share = distance_mm / -self.step_mm
        share += 0.5
        return np.clip(share, 0.0, 1.0, out=share)

    def paint(
        self, distance_mm: Field, hu: float | Field, box: Box | None = None, share: float = 1.0
    ) -> None:
        """Puts a material where the distance is negative; `share` below 1 lets what lies there shine through."""
        part = self.hu if box is None else self.hu[box]
        cover = self.cover(distance_mm)
        if share != 1.0:
            cover *= np.float32(share)
        cover *= hu - part
        part += cover

    def ellipsoid(
        self,
        centre: Sequence[float],
        radii: Sequence[float],
        box: Box | None = None,
        turn: npt.NDArray[np.float64] | None = None,
    ) -> tuple[Field, Box]:
        """Approximate distance to an ellipsoid and the box it is given in; `turn` rotates it (3x3)."""
        where = self.around(centre, float(max(radii))) if box is None else box
        x, y, z = self.at(where)
        offsets = [x - centre[0], y - centre[1], z - centre[2]]
        if turn is not None:
            offsets = [
                sum((np.float32(turn[row, col]) * offsets[col] for col in range(3)), np.float32(0))
                for row in range(3)
            ]
        inside = np.sqrt(sum((o / np.float32(r)) ** 2 for o, r in zip(offsets, radii)))
        return (inside - 1) * np.float32(min(radii)), where

    def tube(
        self, start: Sequence[float], end: Sequence[float], radius: float, radius_end: float | None = None
    ) -> tuple[Field, Box]:
        """Distance to a straight tube with round ends that may taper, and the box it is given in."""
        a, b = np.asarray(start, np.float32), np.asarray(end, np.float32)
        widest = max(radius, radius_end or 0.0) + self.step_mm
        where = self.box(np.minimum(a, b) - widest, np.maximum(a, b) + widest)
        x, y, z = self.at(where)
        along = b - a
        length = max(float(along @ along), 1e-6)
        share = np.clip(
            ((x - a[0]) * along[0] + (y - a[1]) * along[1] + (z - a[2]) * along[2]) / np.float32(length), 0, 1
        )
        gap = np.sqrt(
            (x - a[0] - share * along[0]) ** 2
            + (y - a[1] - share * along[1]) ** 2
            + (z - a[2] - share * along[2]) ** 2
        )
        thick = radius if radius_end is None else radius + share * (radius_end - radius)
        return gap - thick, where


def along_axes(field: Field, weights: Sequence[Field]) -> Field:
    """Interpolates axis by axis: `weights[k]` of shape (N_k, n_k) makes N_k places of the n_k along axis k."""
    rows = len(field)
    field = np.matmul(field, weights[2].T)
    field = np.matmul(weights[1], field)
    return np.matmul(weights[0], field.reshape(rows, -1)).reshape([len(weight) for weight in weights])


def linear_weights(count: int, places: npt.NDArray[np.float64]) -> Field:
    """Weights of `along_axes` that read `count` values at `places` (in voxels), beyond the ends the last one."""
    places = np.clip(places, 0, count - 1)
    below = np.minimum(places.astype(int), max(count - 2, 0))
    rows = np.arange(len(places))
    weights = np.zeros((len(places), count), np.float32)
    weights[rows, below] = 1 - (places - below)
    weights[rows, np.minimum(below + 1, count - 1)] += (places - below).astype(np.float32)
    return weights


def smooth_max(a: Field, b: Field, width_mm: float) -> Field:
    """Maximum of two distances with a rounded edge (polynomial): the overlap of two shapes."""
    gap = a - b
    blend = gap * np.float32(0.5 / width_mm)
    blend += np.float32(0.5)
    np.clip(blend, 0, 1, out=blend)
    rest = 1 - blend
    rest *= np.float32(width_mm)
    gap += rest
    gap *= blend
    gap += b
    return gap


def smooth_min(a: Field, b: Field, width_mm: float) -> Field:
    """Minimum of two distances with a rounded edge: the union of two shapes."""
    return -smooth_max(-a, -b, width_mm)


def _spline_weights(axis: Field, knot_mm: float) -> Field:
    position = (axis - axis[0]) / knot_mm if len(axis) else np.zeros(0, np.float32)
    knots = np.arange(-1, int(position[-1] if len(axis) else 0) + 3)
    gap = np.abs(position[:, None] - knots[None, :])
    inner = 2 / 3 - gap**2 + gap**3 / 2
    outer = np.clip(2 - gap, 0, None) ** 3 / 6
    return np.where(gap < 1, inner, outer).astype(np.float32)
