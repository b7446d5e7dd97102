"""Reads DICOM structure sets (RTSTRUCT): closed contours in patient millimetres, filled on the grid of their images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Code, Segmentation, default_colour, paint
from medseg.io.dicom.contours import Ring, filled
from medseg.io.dicom.headers import NotASlice, damage_in_words, read_header
from medseg.io.sizes import refuse_oversize

if TYPE_CHECKING:
    from pydicom import Dataset

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
IN_PLANE_VOXELS = 0.1
"""How far, as a share of the slice distance, points of one contour may lie out of one plane."""

BESIDE_SLICE_VOXELS = 0.25
"""How far a contour may lie beside the slice that it is given to."""

RAS_LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Structure:
    """One region of interest: what it is called, and its closed contours, each (N, 3) in LPS mm."""

    info: ClassInfo
    contours: tuple[npt.NDArray[np.float64], ...]
    skipped: int


@dataclass(frozen=True)
class References:
    """What a structure set or segmentation was drawn on: series, pictures and frames of reference, by UID.

    predicted: whether a model of medseg drew it, and nobody stored it anew since.
    """

    series: frozenset[str]
    instances: frozenset[str]
    frames: frozenset[str]
    predicted: bool = False


def is_rtstruct(path: Path) -> bool:
    """Whether the file is a DICOM structure set."""
    try:
        return str(read_header(path).get("SOPClassUID", "")) == STRUCTURE_SET
    except NotASlice:
        return False


def read_rtstruct(path: Path, grid: Geometry) -> Segmentation:
    """Reads a structure set on the grid of the images that it was drawn on.

    A voxel belongs to a structure when its centre lies inside. Of several contours of one structure in one slice, one
    that lies inside what the larger ones fill is a hole, one that lies outside is a further part, and one that does
    both is added, with a note. Structures without a closed contour become classes without voxels. Structures that
    overlap are returned as `regions` too.

    grid: of the images, in any axis order; the contours have to lie in planes of its voxels. Raises UserError for
    contours outside the grid, between its slices or oblique to them: then the images are others.
    """
    with damage_in_words(path.name):
        structures = structures_of(_opened(path), path.name)
    classes = tuple(structure.info for structure in structures)
    size = int(np.prod(grid.shape))
    refuse_oversize(2 * size, 2 * size, path.name)
    labels = np.zeros(grid.shape, dtype=np.uint8 if len(classes) < 255 else np.uint16)
    regions: npt.NDArray[np.bool_] | None = None
    notes: list[str] = []
    for number, structure in enumerate(structures):
        pictures, more = fill_structure(structure, grid, path.name)
        notes += more
        for (axis, place), mask in pictures.items():
            view = np.moveaxis(labels, axis, 0)[place]
            if regions is None and np.any(view[mask]):
                refuse_oversize(size * len(classes), size * len(classes), path.name)
                regions = np.stack([labels == info.index for info in classes])
                notes.append("structures overlap; the painted view shows later ones on top")
            if regions is not None:
                np.moveaxis(regions[number], axis, 0)[place] |= mask
            view[mask] = structure.info.index
    if regions is not None:
        labels = paint(regions, classes)
    provenance = {"files": (str(path),), "name": path.name, "kind": "RTSTRUCT", "notes": tuple(notes)}
    return Segmentation(labels, grid, classes, regions, provenance=provenance)


def references_of(path: Path) -> References:
    """What a segmentation or structure set refers to; empty where it is neither or cannot be read."""
    from pydicom import dcmread

    series: set[str] = set()
    instances: set[str] = set()
    frames: set[str] = set()
    try:
        data = dcmread(path, stop_before_pixels=True, force=True)
        _gather(data, series, instances, frames)
        # A prediction names its system behind the word; programs that store a corrected copy write their own name.
        by = str(data.get("Manufacturer", "")), str(data.get("ManufacturerModelName", ""))
    except Exception:  # damaged bytes fail in many ways; a file without references belongs to nothing
        return References(frozenset(), frozenset(), frozenset())
    predicted = by[0] == "medseg" and by[1].startswith("medseg ")
    return References(frozenset(series), frozenset(instances), frozenset(frames), predicted)


def _gather(data: Dataset, series: set[str], instances: set[str], frames: set[str]) -> None:
    if data.get("FrameOfReferenceUID"):
        frames.add(str(data.FrameOfReferenceUID))
    for item in data.get("ReferencedSeriesSequence") or ():
        series.add(str(item.SeriesInstanceUID))
        instances.update(
            str(i.ReferencedSOPInstanceUID) for i in item.get("ReferencedInstanceSequence") or ()
        )
    for frame in data.get("ReferencedFrameOfReferenceSequence") or ():
        frames.add(str(frame.get("FrameOfReferenceUID", "")))
        for study in frame.get("RTReferencedStudySequence") or ():
            for item in study.get("RTReferencedSeriesSequence") or ():
                series.add(str(item.SeriesInstanceUID))
                pictures = item.get("ContourImageSequence") or ()
                instances.update(str(i.ReferencedSOPInstanceUID) for i in pictures)


def _opened(path: Path) -> Dataset:
    from pydicom import dcmread

    try:
        header = read_header(path)
    except NotASlice as err:
        raise UserError(f"cannot be read as a structure set: {err.reason}", path.name) from err
    if str(header.get("SOPClassUID", "")) != STRUCTURE_SET:
        raise UserError("is a DICOM file but no structure set", path.name, "give an RTSTRUCT file")
    return dcmread(path, force=True)


def structures_of(dataset: Dataset, where: str) -> list[Structure]:
    """The structures in the order of the file, numbered from 1."""
    rois = dataset.get("StructureSetROISequence") or ()
    if not rois:
        raise UserError("is a structure set without structures", where, "export it again")
    drawn = {str(item.ReferencedROINumber): item for item in dataset.get("ROIContourSequence") or ()}
    observed = {
        str(item.ReferencedROINumber): item for item in dataset.get("RTROIObservationsSequence") or ()
    }
    out = []
    for position, roi in enumerate(rois):
        number = str(roi.ROINumber)
        contours, skipped = _contours(drawn.get(number), where)
        info = _class(roi, drawn.get(number), observed.get(number), position)
        out.append(Structure(info, tuple(contours), skipped))
    return out


def _class(roi: Any, drawn: Any, observed: Any, position: int) -> ClassInfo:
    colour = default_colour(position)
    stored = None if drawn is None else drawn.get("ROIDisplayColor")
    if stored is not None and len(stored) == 3:
        red, green, blue = (max(0, min(255, int(v))) for v in stored)
        colour = (red, green, blue)
    code = None
    coded = None if observed is None else observed.get("RTROIIdentificationCodeSequence")
    if coded:
        value = coded[0].get("CodeValue") or coded[0].get("LongCodeValue") or ""
        code = Code(
            str(value), str(coded[0].get("CodingSchemeDesignator", "")), str(coded[0].get("CodeMeaning", ""))
        )
    return ClassInfo(str(roi.get("ROIName") or f"structure {position + 1}"), position + 1, colour, code)


def _contours(item: Any, where: str) -> tuple[list[npt.NDArray[np.float64]], int]:
    """The closed contours, and how many others (points, open lines, fewer than three points) there are."""
    contours, skipped = [], 0
    for contour in (None if item is None else item.get("ContourSequence")) or ():
        values = _numbers(contour)
        if values.size % 3 or not np.isfinite(values).all():
            raise UserError(
                f"has a contour of {values.size} numbers that are no points", where, "export it again"
            )
        if str(contour.get("ContourGeometricType", "")) in CLOSED and values.size >= 9:
            contours.append(values.reshape(-1, 3))
        else:
            skipped += 1
    return contours, skipped


def _numbers(contour: Any) -> npt.NDArray[np.float64]:
    """ContourData as an array; the text is taken as it lies in the file, for millions of numbers are read."""
    if "ContourData" not in contour:
        return np.zeros(0)
    raw = contour.get_item("ContourData")
    if isinstance(raw.value, bytes):
        text = raw.value.strip(b" \0")
        return np.array(text.split(b"\\") if text else [], dtype=np.float64)
    return np.array([float(v) for v in raw.value or ()], dtype=np.float64)


def fill_structure(
    structure: Structure, grid: Geometry, where: str
) -> tuple[dict[tuple[int, int], npt.NDArray[np.bool_]], list[str]]:
    """(axis, slice) -> mask of the other two axes in their order, and notes.

    axis: the grid's axis along which the contours are stacked.
    """
    name = f"structure {structure.info.index}"  # what it is called is free text, which no message repeats
    notes = [f"{name}: {structure.skipped} points or open lines left out"] if structure.skipped else []
    if not structure.contours:
        return {}, notes
    points = [grid.to_index(contour * RAS_LPS) for contour in structure.contours]
    spreads = np.array([np.ptp(p, axis=0) for p in points])
    axis = int(spreads.max(axis=0).argmin())
    if spreads[:, axis].max() > IN_PLANE_VOXELS:
        raise UserError(
            f"contours of {name} do not lie in the slices of the images",
            where,
            "give the series that the contours were drawn on",
        )
    slices = _slices(structure, points, axis, grid, where)
    first, second = (a for a in range(3) if a != axis)
    shape = (grid.shape[first], grid.shape[second])
    pictures, overlapped = {}, 0
    for place, rings in slices.items():
        turned: list[Ring] = [p[:, [second, first]] for p in rings]
        pictures[axis, place], overlaps = combined(turned, shape)
        overlapped += overlaps
    if overlapped:
        notes.append(f"{name}: {overlapped} contours overlap others of their slice in part; they were joined")
    return pictures, notes + _gaps(name, sorted(slices))


def _slices(
    structure: Structure, points: Sequence[npt.NDArray[np.float64]], axis: int, grid: Geometry, where: str
) -> dict[int, list[npt.NDArray[np.float64]]]:
    """Slice number -> its contours as points in voxels. Raises UserError for contours that belong to no slice."""
    slices: dict[int, list[npt.NDArray[np.float64]]] = defaultdict(list)
    for ring in points:
        place = float(ring[:, axis].mean())
        nearest = round(place)
        away = abs(place - nearest)
        # A single slice knows no neighbours: its contour may lie anywhere within its thickness.
        allowed = BESIDE_SLICE_VOXELS if grid.shape[axis] > 1 else 0.5
        inside = (ring.max(axis=0) > -1).all() and (ring.min(axis=0) < np.array(grid.shape)).all()
        if away > allowed or not 0 <= nearest < grid.shape[axis] or not inside:
            mm = grid.spacing[axis] * (away if 0 <= nearest < grid.shape[axis] else abs(place))
            lies = f"{mm:.2f} mm beside the nearest slice" if inside else "outside the images"
            raise UserError(
                f"a contour of structure {structure.info.index} lies {lies}",
                where,
                "give the series that the contours were drawn on",
            )
        slices[nearest].append(ring)
    return slices


def combined(rings: Sequence[Ring], shape: tuple[int, int]) -> tuple[npt.NDArray[np.bool_], int]:
    """The mask of all contours of one slice, the largest first, and how many overlap others in part."""
    if len(rings) == 1:
        return filled(rings, shape), 0
    masks = sorted((filled([ring], shape) for ring in rings), key=np.count_nonzero, reverse=True)
    out = np.zeros(shape, dtype=np.bool_)
    overlaps = 0
    for number, mask in enumerate(masks):
        if any(np.array_equal(mask, other) for other in masks[:number]):
            continue  # drawn twice
        covered = np.count_nonzero(out & mask)
        if covered and covered == np.count_nonzero(mask):
            out &= ~mask
        else:
            overlaps += bool(covered)
            out |= mask
    return out, overlaps


def _gaps(name: str, places: Sequence[int]) -> list[str]:
    """A note where slices between contours have none: drawn on every second slice, or left out."""
    missing = places[-1] - places[0] + 1 - len(places)
    if not missing:
        return []
    return [f"{name}: {missing} slices between its contours have none and stay empty"]
