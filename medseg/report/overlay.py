"""Overlay pictures: image, prediction and reference as contours, in three planes, as a radiologist holds them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core import ClassInfo, Geometry, Segmentation
from medseg.core.geometry import reorient_array

LONGEST_PX = 420


@dataclass(frozen=True)
class Plane:
    """One slice ready to be drawn: rows run downwards, columns to the right; `aspect` is row height / column width."""

    title: str
    image: npt.NDArray[Any]
    prediction: npt.NDArray[np.bool_]
    reference: npt.NDArray[np.bool_] | None
    aspect: float
    letters: tuple[str, str, str, str]  # left, right, top, bottom


# Plane: the axis that is cut, the axes shown as (columns, rows), and the letters at its borders. Volumes are RAS, and
# radiologists look from the feet and from the front: the patient's right is on the left of the picture.
_VIEWS = (
    ("axial", 2, (0, 1), ("R", "L", "A", "P")),
    ("coronal", 1, (0, 2), ("R", "L", "H", "F")),
    ("sagittal", 0, (1, 2), ("A", "P", "H", "F")),
)


def planes(
    image: npt.NDArray[Any], geometry: Geometry, prediction: Segmentation, reference: Segmentation | None
) -> list[Plane]:
    """The slices with most foreground in each plane (photographs: the whole picture).

    image: (C, *S) on `geometry`; the masks lie on the same grid.
    """
    ours = _masks(prediction)
    theirs = None if reference is None else _masks(reference)
    if geometry.ndim == 2:
        picture = np.moveaxis(image[:3], 0, -1) if image.shape[0] >= 3 else image[0]
        return [Plane("", picture, ours, theirs, 1.0, ("", "", "", ""))]
    ras, order, flips = geometry.reoriented()
    volume, ours = reorient_array(image[0], order, flips), reorient_array(ours, order, flips)
    theirs = None if theirs is None else reorient_array(theirs, order, flips)
    return [_cut(view, volume, ours, theirs, ras) for view in _VIEWS]


def _masks(segmentation: Segmentation) -> npt.NDArray[np.bool_]:
    """(K, *S): one mask a class."""
    if segmentation.regions is not None:
        return segmentation.regions
    return np.stack([segmentation.mask(k) for k in range(len(segmentation.classes))])


def _cut(
    view: tuple, volume: npt.NDArray, ours: npt.NDArray, theirs: npt.NDArray | None, ras: Geometry
) -> Plane:
    title, axis, (columns, rows), letters = view
    drawn = ours if theirs is None else ours | theirs
    counts = drawn.any(axis=0).sum(axis=tuple(a for a in range(3) if a != axis))
    place = int(counts.argmax()) if counts.any() else volume.shape[axis] // 2

    def show(array: npt.NDArray) -> npt.NDArray:
        lead = array.ndim - 3
        flat = np.take(array, place, axis=lead + axis)
        # np.take drops the cut axis; what is left keeps the order x, y, z, so columns come before rows.
        turned = np.swapaxes(flat, lead, lead + 1)
        return turned[..., ::-1, ::-1]

    aspect = ras.spacing[rows] / ras.spacing[columns]
    return Plane(title, show(volume), show(ours), None if theirs is None else show(theirs), aspect, letters)


def draw(found: Sequence[Plane], classes: Sequence[ClassInfo], window: tuple[float, float] | None) -> bytes:
    """The planes side by side as a PNG: prediction as solid contours in class colours, reference dashed white."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    widths = [p.image.shape[1] / (p.image.shape[0] * p.aspect) for p in found]
    height = 3.0 if len(found) > 1 else 4.2
    figure = Figure(figsize=(max(2.0, height * sum(widths)), height), dpi=110, facecolor="black")
    axes = figure.subplots(1, len(found), width_ratios=widths, squeeze=False)[0]
    for axis, plane in zip(axes, found):
        _draw_plane(axis, plane, classes, window)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.02)
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)
    return out.getvalue()


def _draw_plane(
    axis: Any, plane: Plane, classes: Sequence[ClassInfo], window: tuple[float, float] | None
) -> None:
    step = max(1, max(plane.image.shape[:2]) // LONGEST_PX)
    image = np.asarray(plane.image[::step, ::step], dtype=np.float32)
    if image.ndim == 3:
        axis.imshow(
            np.clip(image / max(255.0, float(image.max())), 0, 1),
            aspect=plane.aspect,
            interpolation="bilinear",
        )
    else:
        low, high = window or _spread(image)
        axis.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=plane.aspect, interpolation="bilinear")
    for position, info in enumerate(classes):
        _contour(
            axis, plane.prediction[position][::step, ::step], [c / 255 for c in info.colour], "solid", 1.4
        )
        if plane.reference is not None:
            _contour(axis, plane.reference[position][::step, ::step], "white", "dashed", 0.7)
    left, right, top, bottom = plane.letters
    for x, y, letter in ((0.03, 0.5, left), (0.97, 0.5, right), (0.5, 0.96, top), (0.5, 0.04, bottom)):
        axis.text(
            x, y, letter, color="#ffd866", fontsize=9, ha="center", va="center", transform=axis.transAxes
        )
    axis.set_axis_off()


def _contour(axis: Any, mask: npt.NDArray[np.bool_], colour: Any, style: str, width: float) -> None:
    if mask.any() and not mask.all():
        axis.contour(mask, [0.5], colors=[colour], linewidths=width, linestyles=style)


def _spread(image: npt.NDArray) -> tuple[float, float]:
    finite = image[np.isfinite(image)]
    low, high = np.percentile(finite, [1, 99.5]) if finite.size else (0.0, 1.0)
    return float(low), float(max(high, low + 1e-6))
