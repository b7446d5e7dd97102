"""Reads a DICOM series as one volume in RAS+ mm; refuses what is none, in words and with numbers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.machine import cores
from medseg.io.dicom.headers import (
    PROJECTIONS,
    NotASlice,
    Slice,
    damage_in_words,
    modality_of,
    read_header,
)
from medseg.io.dicom.known import slices_of
from medseg.io.dicom.pixels import MOST_READERS, read_pixels, read_projection
from medseg.io.dicom.stacks import (
    TILT_DEGREES,
    IrregularSeries,
    Spacing,
    Stack,
    geometry_of,
    spacing_of,
    split,
    wander_mm,
)
from medseg.io.dicom.tags import holds_frames
from medseg.io.dicom.unread import lost_beside

SIDEWAYS_ALLOWED = 0.05
"""How far, as a share of a pixel, a picture may lie beside the line of the others."""


def read_series(files: Sequence[Path], irregular: str = "error", spacing_tolerance: float = 0.01) -> Image:
    """Reads the files of one series, or one multi-frame file, as (1, X, Y, Z) physical values.

    irregular: "error" and "skip" raise IrregularSeries for missing or unevenly spaced slices (the caller decides
    what a skipped case is); "resample" interpolates linearly onto even distances and says so in the notes.
    spacing_tolerance: allowed relative deviation of slice distances.

    The array's axes are columns, rows, slices; slices ascend along the normal of the pictures. A gantry tilt is kept
    as a sheared grid. Messages call files by their number and instance, never by name.
    """
    files = [Path(f) for f in files]
    if len(files) == 1 and (film := _film(files[0])) is not None:
        return film
    stack = _one_stack(files)
    geometry, spacing, notes = _grid(stack, irregular, spacing_tolerance)
    array, more = read_pixels(stack.slices)
    if spacing.faults:
        array = _even(array, spacing, geometry.shape[2])
    notes = (*stack.notes, *notes, *more, *lost_beside(stack.slices))
    return Image(array[None], geometry, stack.first.modality, _origin(stack), notes)


def read_series_geometry(
    files: Sequence[Path], irregular: str = "error", spacing_tolerance: float = 0.01
) -> Geometry:
    """The grid alone; no pixels are decoded."""
    files = [Path(f) for f in files]
    if len(files) == 1 and (film := _film(files[0])) is not None:
        return film.geometry
    return _grid(_one_stack(files), irregular, spacing_tolerance)[0]


def read_stack(files: Sequence[Path]) -> Stack:
    """The pictures of one volume in order along the normal. Raises UserError where the files are no single volume."""
    return _one_stack([Path(f) for f in files])


def _one_stack(files: Sequence[Path]) -> Stack:
    slices, damaged = _slices(files)
    if damaged and len(files) == 1:
        raise UserError(f"the DICOM file cannot be read as an image: {next(iter(damaged))}")
    if damaged:
        raise UserError(
            f"{sum(map(len, damaged.values()))} of {len(files)} files cannot be used",
            hint="remove or copy these files again; medseg does not read around holes in a volume",
            faults=[f"{_numbered(numbers)}: {reason}" for reason, numbers in damaged.items()],
        )
    uids = {s.series_uid for s in slices}
    if len(uids) > 1:
        raise UserError(
            f"files of {len(uids)} series: {_counts(slices)}",
            hint="choose one series with data.select (kernel, description, thinnest slices, or its key)",
        )
    stacks = split(slices)
    if len(stacks) > 1 and stacks[0].conflict:
        raise UserError(f"is no volume: {stacks[0].conflict}", hint="choose another series")
    if len(stacks) > 1:
        raise UserError(
            f"the series holds {len(stacks)} volumes: "
            + "; ".join(_described(stack) for stack in stacks[:8]),
            hint="choose one of them with data.select.series",
        )
    stack = stacks[0]
    if stack.conflict:
        raise UserError(
            f"is no single volume: {stack.conflict}", hint="sort the files into one folder a volume"
        )
    return stack


def _counts(slices: Sequence[Slice]) -> str:
    counts: dict[str, int] = {}
    for one in slices:
        counts[one.series_uid] = counts.get(one.series_uid, 0) + 1
    return ", ".join(f"{n} slices" for n in counts.values())


def _described(stack: Stack) -> str:
    differs = ", ".join(f"{name} {value}" for name, value in stack.differs) or "another orientation or kind"
    return f"{len(stack.slices)} slices ({differs})"


def _numbered(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(n) for n in numbers[:10]) + (" ..." if len(numbers) > 10 else "")
    return f"file {shown}" if len(numbers) == 1 else f"files {shown}"


def _slices(files: Sequence[Path]) -> tuple[list[Slice], dict[str, list[int]]]:
    """The pictures of all files, and the reasons why others hold none with the numbers of those files."""

    def one(file: Path) -> list[Slice] | str:
        try:
            return slices_of(file)
        except NotASlice as err:
            return err.reason

    with ThreadPoolExecutor(min(MOST_READERS, cores(), max(1, len(files)))) as readers:
        found = list(readers.map(one, files))
    slices = [s for part in found if isinstance(part, list) for s in part]
    damaged: dict[str, list[int]] = {}
    for number, part in enumerate(found):
        if isinstance(part, str):
            damaged.setdefault(part, []).append(number + 1)
    return slices, damaged


def _grid(stack: Stack, irregular: str, tolerance: float) -> tuple[Geometry, Spacing, tuple[str, ...]]:
    spacing = spacing_of(stack, tolerance)
    count = len(stack.slices)
    if spacing.distance_mm <= 0:
        raise UserError(
            "is a single slice whose thickness is not in its header",
            hint="a volume needs two slices or a thickness",
        )
    sideways = wander_mm(stack)
    allowed = SIDEWAYS_ALLOWED * min(stack.first.row_spacing, stack.first.column_spacing)
    if sideways > max(allowed, 0.02):
        raise UserError(
            f"the slices do not lie on a straight line ({sideways:.2f} mm beside it)",
            hint="the pictures were shifted against each other; export the original series",
        )
    notes: list[str] = []
    if spacing.tilt_degrees > TILT_DEGREES and count > 1:
        notes.append(f"gantry tilt of {spacing.tilt_degrees:.1f} degrees: kept as a sheared grid")
    if not spacing.faults:
        way = float(spacing.places[-1] - spacing.places[0]) if count > 1 else 0.0
        distance = way / (count - 1) if count > 1 else spacing.distance_mm
        return geometry_of(stack, distance, count), spacing, tuple(notes)
    if irregular != "resample":
        raise IrregularSeries(
            f"slices are missing or unevenly spaced ({len(spacing.faults)} places, {count} slices)",
            hint="find the missing slices, or set data.select.irregular: resample (or skip)",
            faults=spacing.faults[:10],
        )
    way = float(spacing.places[-1] - spacing.places[0])
    even = max(2, round(way / spacing.distance_mm) + 1)
    notes.append(f"{count} unevenly spaced slices interpolated onto {even} ({spacing.faults[0]})")
    return geometry_of(stack, way / (even - 1), even), spacing, tuple(notes)


def _even(array: npt.NDArray[Any], spacing: Spacing, count: int) -> npt.NDArray[Any]:
    """Linear interpolation along the slices onto `count` even places."""
    wanted = np.linspace(spacing.places[0], spacing.places[-1], count)
    after = np.clip(np.searchsorted(spacing.places, wanted), 1, len(spacing.places) - 1)
    before = after - 1
    weight = (wanted - spacing.places[before]) / (spacing.places[after] - spacing.places[before])
    out = np.empty((count, array.shape[1], array.shape[0]), dtype=array.dtype)
    for k in range(count):
        low, high = array[:, :, before[k]].T, array[:, :, after[k]].T
        mixed = low * (1.0 - weight[k]) + high * weight[k]
        out[k] = np.rint(mixed) if array.dtype.kind in "iu" else mixed
    return out.transpose(2, 1, 0)


def _film(path: Path) -> Image | None:
    """A single film (CR, DX, ...) as a 2D picture in px; None for anything else."""
    try:
        header = read_header(path)
    except NotASlice:
        return None
    with damage_in_words("the picture"):
        modality, placed = modality_of(header), bool(header.get("ImageOrientationPatient"))
    if modality not in PROJECTIONS or placed or holds_frames(header):
        return None
    array, notes = read_projection(path)
    origin = {"files": (str(path),), "format": "dicom"}
    return Image(array[None], Geometry.pixels(array.shape), modality, origin, notes)


def _origin(stack: Stack) -> dict[str, Any]:
    first = stack.first
    return {
        "format": "dicom",
        "files": tuple(dict.fromkeys(str(s.path) for s in stack.slices)),
        "series_uid": first.series_uid,
        "study_uid": first.study_uid,
        "frame_of_reference": first.frame_of_reference,
    }
