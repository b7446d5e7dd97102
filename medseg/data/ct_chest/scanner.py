"""A scanner: field of view, grid and its orientation, slice thickness, kernel, dose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.geometry import Geometry
from medseg.data.ct_chest.canvas import Field, along_axes, linear_weights
from medseg.data.ct_chest.chest import Chest, draw_chest
from medseg.data.ct_chest.person import Person, paint_person

MAX_VOXELS = 3_000_000
MAX_IN_PLANE = 256
MAX_SLICES = 110
CANVAS_VOXELS = 1_700_000
LEAST_LUNG_ML = 100.0
"""What makes a scan one of the chest: the bases on a scan of the belly have about as much."""
VIEWS = {"thorax": 0.42, "bases": 0.22, "side": 0.20, "top": 0.06, "slab": 0.10}
"""Share of fields of view: whole chest, belly with lung bases, one side, neck and apices, a part of the chest."""


@dataclass(frozen=True)
class View:
    """Where the scanner looks: a box round `centre` (mm, patient frame), turned by `turn`, with its grid.

    axes: stored axis k runs along the box's own axis axes[k], backwards where signs[k] is -1.
    """

    name: str
    centre: npt.NDArray[np.float64]
    size_mm: npt.NDArray[np.float64]
    turn: npt.NDArray[np.float64]
    spacing_mm: npt.NDArray[np.float64]
    axes: tuple[int, int, int]
    signs: tuple[int, int, int]
    round_field: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the box's own axes (right, front, up)."""
        counts = np.maximum(np.round(self.size_mm / self.spacing_mm), 8).astype(int)
        return (int(counts[0]), int(counts[1]), int(counts[2]))

    def corners(self) -> npt.NDArray[np.float64]:
        signs = np.stack(np.meshgrid(*[(-0.5, 0.5)] * 3, indexing="ij"), -1).reshape(-1, 3)
        return self.centre + (signs * self.size_mm) @ self.turn.T


@dataclass(frozen=True)
class Scan:
    """hu: int16 (X, Y, Z); labels: uint8 on the same grid, 1 right lung, 2 left lung; facts: how it was scanned."""

    hu: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    geometry: Geometry
    facts: dict[str, Any]


def scan_person(rng: np.random.Generator) -> Scan:
    """Draws persons and scanners until one scan holds LEAST_LUNG_ML of lung."""
    while True:
        scan = _scan_anyone(rng)
        if scan.facts["lung_ml"] >= LEAST_LUNG_ML:
            return scan


def _scan_anyone(rng: np.random.Generator) -> Scan:
    chest = draw_chest(rng)
    view = draw_view(chest, rng)
    corners = view.corners()
    low, high = corners.min(axis=0) - 6, corners.max(axis=0) + 6
    step = max(1.8, float((np.prod(high - low) / CANVAS_VOXELS) ** (1 / 3)))
    person = paint_person(chest, low, high, step, rng)
    return _expose(person, view, rng)


def draw_view(chest: Chest, rng: np.random.Generator) -> View:
    """The field of view, the tilt, the grid and its orientation."""
    name = str(rng.choice(list(VIEWS), p=list(VIEWS.values())))
    low, high = _extent(name, chest, rng)
    turn = _turn(rng) if rng.random() < 0.4 else np.eye(3)
    slice_axis = int(rng.choice(3, p=[0.08, 0.10, 0.82]))
    in_plane = np.exp(rng.uniform(np.log(0.8), np.log(3.0)))
    thick = np.exp(rng.uniform(np.log(1.0), np.log(8.0 if slice_axis == 2 else 5.0)))
    size = high - low
    plane = [axis for axis in range(3) if axis != slice_axis]
    in_plane = max(in_plane, max(size[plane]) / MAX_IN_PLANE)
    thick = max(
        thick, 0.8 * in_plane, np.prod(size) / in_plane**2 / MAX_VOXELS, size[slice_axis] / MAX_SLICES
    )
    spacing = np.full(3, in_plane)
    spacing[slice_axis] = thick
    axes, signs = _orientation(slice_axis, rng)
    return View(name, 0.5 * (low + high), size, turn, spacing, axes, signs, bool(rng.random() < 0.35))


def _extent(name: str, chest: Chest, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    outer = chest.half_width + chest.muscle + chest.lateral_fat
    half = outer * rng.uniform(0.95, 1.45)
    front = chest.front(np.float32(-60)) + chest.front_fat + 0.5 * chest.muscle + rng.uniform(0, 50)
    back = -0.5 * chest.depth - chest.back_fat - chest.muscle - rng.uniform(0, 70)
    low = np.array([rng.uniform(-15, 15) - half, back, 0.0])
    high = np.array([half, float(front), 0.0])
    dome = max(chest.dome_left, chest.dome_right)
    gutter = dome - 0.8 * (chest.dome_fall + chest.gutter_fall)
    if name in ("thorax", "side"):
        low[2], high[2] = gutter - rng.uniform(-15, 70), chest.apex + rng.uniform(-12, 45)
    elif name == "bases":
        high[2] = rng.uniform(gutter + 5, dome + 25)
        low[2] = high[2] - rng.uniform(90, 340)
    elif name == "top":
        low[2], high[2] = rng.uniform(-50, 40), chest.apex + rng.uniform(20, 120)
    else:
        low[2] = rng.uniform(gutter, chest.apex - 80)
        high[2] = low[2] + rng.uniform(50, 150)
    if name == "side":
        if rng.random() < 0.5:
            low[0] = rng.uniform(-45, 10)
        else:
            high[0] = rng.uniform(-10, 45)
        if rng.random() < 0.5:
            low[1] += rng.uniform(0, 60)
            high[1] -= rng.uniform(0, 60)
    if name == "slab" and rng.random() < 0.6:
        cut = rng.uniform(0, 80, 4)
        low[:2] += cut[:2]
        high[:2] -= cut[2:]
    return low, high


def _turn(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A rotation by up to 15 degrees about a random axis (Rodrigues)."""
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    angle = np.deg2rad(rng.uniform(2, 15))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _orientation(
    slice_axis: int, rng: np.random.Generator
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    # A DICOM series is right-handed (slices are sorted along rows x columns), so the last sign follows.
    if slice_axis == 2 and rng.random() < 0.6:
        return (0, 1, 2), (-1, -1, 1)
    plane = [axis for axis in range(3) if axis != slice_axis]
    if rng.random() < 0.25:
        plane.reverse()
    axes = (plane[0], plane[1], slice_axis)
    signs = [int(s) for s in rng.choice([-1, 1], 2)]
    parity = round(np.linalg.det(np.eye(3)[:, list(axes)]))
    return axes, (signs[0], signs[1], parity * signs[0] * signs[1])


def _expose(person: Person, view: View, rng: np.random.Generator) -> Scan:
    from scipy import ndimage

    canvas = person.canvas
    matrix = view.turn * (view.spacing_mm / canvas.step_mm)[None, :]
    straight = np.array_equal(view.turn, np.eye(3))
    first = view.centre + view.turn @ (-0.5 * (np.array(view.shape) - 1) * view.spacing_mm)
    offset = (first - [axis[0] for axis in canvas.axes]) / canvas.step_mm
    thick = view.spacing_mm[view.axes[2]]
    blur = np.sqrt(max(0.0, thick**2 - canvas.step_mm**2) / 12) / canvas.step_mm

    def thicken(field: Field, axis: int) -> Field:
        return ndimage.gaussian_filter1d(field, blur, axis, mode="nearest") if blur > 0.3 else field

    def sample(field: Field) -> Field:
        if not straight:
            field = thicken(field, view.axes[2])
            return _resample_linear(field, matrix, offset, view.shape)
        # Axis by axis, the thickness of a slice within the weights: a tenth of the time.
        places = [o + m * np.arange(n) for o, m, n in zip(offset, np.diag(matrix), view.shape)]
        weights = [linear_weights(n, at) for n, at in zip(field.shape, places)]
        across = view.axes[2]
        weights[across] = weights[across] @ thicken(np.eye(field.shape[across], dtype=np.float32), 0)
        return along_axes(field, weights)

    hu, right, left = sample(canvas.hu), sample(person.right), sample(person.left)
    labels = np.where(np.minimum(right, left) < 0, np.where(right < left, 1, 2), 0).astype(np.uint8)
    sigma, kernel = _add_noise(hu, view, rng)
    hu = np.clip(np.rint(hu), -1024, 3071)
    padding = int(rng.choice([-1024, -1024, -1500, -2000])) if view.round_field else None
    if padding is not None:
        outside = _outside_circle(view)
        labels[outside], hu[outside] = 0, padding
    order = view.axes
    hu = _stored(hu.transpose(order), view.signs).astype(np.int16)
    labels = _stored(labels.transpose(order), view.signs)
    facts: dict[str, Any] = {
        "view": view.name, "noise_hu": round(sigma, 1), "kernel": kernel, "slice_mm": round(float(thick), 2),
        "padding_hu": padding, "contrast": person.contrast, **_rescale(rng),
        "lung_ml": round(float(np.count_nonzero(labels) * np.prod(view.spacing_mm)) / 1000, 1),
    }  # fmt: skip
    return Scan(hu, labels, _geometry(view, hu.shape, first, rng), facts)


def _resample_linear(field: Field, matrix: np.ndarray, offset: np.ndarray, shape: tuple[int, ...]) -> Field:
    """Value at matrix @ voxel + offset of each voxel, the nearest one outside: scipy.ndimage.affine_transform of order 1
    to the last bit of HU, in two fifths of its time."""
    import SimpleITK as sitk

    back = np.eye(3)[::-1]  # ITK counts axes from the last
    place = sitk.AffineTransform(3)
    place.SetMatrix((back @ matrix @ back).ravel())
    place.SetTranslation(back @ offset)
    resample = sitk.ResampleImageFilter()
    resample.SetNumberOfThreads(1)
    resample.SetSize([int(n) for n in reversed(shape)])
    resample.SetTransform(place)
    resample.SetInterpolator(sitk.sitkLinear)
    resample.SetUseNearestNeighborExtrapolator(True)
    sampled: Field = sitk.GetArrayFromImage(resample.Execute(sitk.GetImageFromArray(field)))
    return sampled


def _rescale(rng: np.random.Generator) -> dict[str, float]:
    """How HU become stored numbers: mostly as on common scanners."""
    slope, intercept = [(1.0, -1024.0), (1.0, -1024.0), (1.0, 0.0), (1.0, -8192.0), (0.5, -1024.0)][
        rng.integers(5)
    ]
    return {"slope": slope, "intercept": intercept}


def _stored(array: npt.NDArray[np.generic], signs: tuple[int, int, int]) -> npt.NDArray[np.generic]:
    return np.ascontiguousarray(array[tuple(slice(None, None, s) for s in signs)])


def _add_noise(hu: npt.NDArray[np.float32], view: View, rng: np.random.Generator) -> tuple[float, str]:
    """Kernel in the plane, then noise of that kernel's grain; returns the noise in HU and the kernel's name."""
    from scipy import ndimage

    plane = [0.0 if axis == view.axes[2] else 1.0 for axis in range(3)]
    soft = rng.uniform(0, 1)
    if soft < 0.4:
        width = rng.uniform(0.3, 0.9)
        hu[...] = ndimage.gaussian_filter(hu, [width * p for p in plane])
    elif soft > 0.7:
        hu += rng.uniform(0.3, 1.2) * (hu - ndimage.gaussian_filter(hu, [1.0 * p for p in plane]))
    sigma = float(np.exp(rng.uniform(np.log(4), np.log(70))))
    grain = rng.standard_normal(hu.shape, dtype=np.float32)
    if soft < 0.7:
        grain = ndimage.gaussian_filter(grain, [0.7 * p for p in plane]) * np.float32(2.4)
    hu += np.float32(sigma) * grain
    return sigma, "B20f" if soft < 0.4 else ("B40f" if soft < 0.7 else "B70f")


def _outside_circle(view: View) -> npt.NDArray[np.bool_]:
    grids = [
        np.linspace(-1, 1, n) if axis != view.axes[2] else np.zeros(n) for axis, n in enumerate(view.shape)
    ]
    plane = [axis for axis in range(3) if axis != view.axes[2]]
    longest = max(view.shape[axis] * view.spacing_mm[axis] for axis in plane)
    total = np.zeros((1, 1, 1))
    for axis in plane:
        scale = view.shape[axis] * view.spacing_mm[axis] / longest
        form = [1, 1, 1]
        form[axis] = -1
        total = total + (grids[axis] * scale).reshape(form) ** 2
    return np.broadcast_to(total > 1.0, view.shape)


def _geometry(view: View, shape: tuple[int, ...], first: np.ndarray, rng: np.random.Generator) -> Geometry:
    """Affine of the stored array; the scanner's origin lies anywhere."""
    affine = np.eye(4)
    start = first.copy()
    for k, (axis, sign) in enumerate(zip(view.axes, view.signs)):
        direction = view.turn[:, axis] * view.spacing_mm[axis]
        affine[:3, k] = sign * direction
        if sign < 0:
            start = start + direction * (view.shape[axis] - 1)
    affine[:3, 3] = np.round(start + rng.uniform(-250, 250, 3), 3)
    return Geometry(shape, affine)
