"""Reads DICOM segmentations: bits, whole-number fractions and label maps, every frame put where it says it lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.label_values import value_counts
from medseg.core.segmentation import ClassInfo, Code, Segmentation, default_colour, paint
from medseg.io.dicom.class_names import match
from medseg.io.dicom.colour import to_rgb
from medseg.io.dicom.decode import decoded_frames, decoding_failed
from medseg.io.dicom.headers import (
    RLE,
    SEGMENTATION_CLASSES,
    UNCOMPRESSED,
    NotASlice,
    damage_in_words,
    read_header,
)
from medseg.io.sizes import refuse_oversize

if TYPE_CHECKING:
    from pydicom import Dataset

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
GRID_SHARE = 0.02
"""How far, as a share of the slice distance, a frame may lie beside its place on the even grid."""

ALIGNED_VOXELS = 0.05
"""How far, in voxels, corresponding voxels of two grids may lie apart and still be the same voxel."""

LATERALITY = {"7771000": "left", "24028007": "right"}


@dataclass(frozen=True)
class _Frames:
    """Where frames lie: the grid that holds all of them, and for each frame its slice and its segment (0: all)."""

    geometry: Geometry
    slices: tuple[int, ...]
    segments: tuple[int, ...]


def is_seg(path: Path) -> bool:
    """Whether the file is a DICOM segmentation."""
    try:
        return str(read_header(path).get("SOPClassUID", "")) in SEGMENTATION_CLASSES
    except NotASlice:
        return False


def read_seg(path: Path) -> Segmentation:
    """Reads a DICOM segmentation on the smallest grid that holds all its frames; omitted frames are background.

    Labels are the segments' numbers; classes carry the segments' labels, codes and colours. Segments that overlap
    are returned as `regions` too, and `provenance["notes"]` says so. Raises UserError for files without a place in
    space (films, slides), true fractions, and syntaxes that cannot be decoded.
    """
    with damage_in_words(path.name):
        return _read(path)


def _read(path: Path) -> Segmentation:
    dataset = _opened(path)
    classes = tuple(
        _class(item, n) for n, item in enumerate(dataset.SegmentSequence) if int(item.SegmentNumber) != 0
    )
    frames = _placed(dataset, path.name)
    volume = frames.geometry.shape[0] * frames.geometry.shape[1] * frames.geometry.shape[2]
    refuse_oversize(volume * 2, volume * 2, path.name)
    labelmap = str(dataset.SegmentationType) == "LABELMAP"
    if labelmap:
        labels, regions = _labelmap(dataset, frames, path.name), None
    else:
        labels, regions = _from_masks(dataset, frames, classes, path.name)
    notes = () if regions is None else ("segments overlap; the painted view shows later ones on top",)
    provenance = {"files": (str(path),), "name": path.name, "notes": notes}
    return Segmentation(labels, frames.geometry, classes, regions, provenance=provenance)


def read_pictures(path: Path) -> tuple[Geometry, Iterator[tuple[int, int, npt.NDArray[Any]]]]:
    """The grid of a segmentation's frames, and of every frame its segment, its slice and its stored pixels."""
    with damage_in_words(path.name):
        dataset = _opened(path)
        frames = _placed(dataset, path.name)
    pictures = zip(frames.segments, frames.slices, _pictures(dataset, path.name))
    return frames.geometry, pictures


def place_on(seg: Segmentation, grid: Geometry) -> Segmentation:
    """The segmentation on another grid whose voxels coincide with its own (axes may be permuted or flipped).

    Where the voxels do not coincide, or labelled ones would fall outside, it is returned as it is, so that the
    comparison of grids says what is wrong.
    """
    if seg.geometry.same_grid(grid):
        return seg
    moved = _alignment(seg.geometry, grid)
    if moved is None:
        return seg
    order, flips, low = moved
    labels = _put(seg.labels, order, flips, low, grid.shape)
    if np.count_nonzero(labels) != np.count_nonzero(seg.labels):
        return seg
    regions = None
    if seg.regions is not None:
        regions = np.stack([_put(r, order, flips, low, grid.shape) for r in seg.regions])
    return replace(seg, labels=labels, geometry=grid, regions=regions)


def in_classes(seg: Segmentation, classes: Sequence[ClassInfo]) -> Segmentation:
    """The segmentation in the given classes: segments are matched by name, else by code and side.

    Raises UserError that names the segments which match no class.
    """
    places = {info.index: match(info, classes) for info in seg.classes}
    strange = [info.name for info in seg.classes if places[info.index] is None]
    if strange:
        raise UserError(
            f"has segments that are none of the classes: {', '.join(strange[:8])}",
            str(seg.provenance.get("name", "")),
            f"the classes are {', '.join(info.name for info in classes)}; matched by name or SNOMED code",
        )
    table = np.zeros(max([int(seg.labels.max(initial=0)), *places, 0]) + 1, dtype=np.int32)
    for index, place in places.items():
        table[index] = classes[place or 0].index
    labels = table[seg.labels].astype(np.uint8 if table.max() < 256 else np.uint16)
    regions = None
    if seg.regions is not None:
        regions = np.zeros((len(classes), *seg.labels.shape), dtype=np.bool_)
        for number, info in enumerate(seg.classes):
            regions[places[info.index] or 0] |= seg.regions[number]
    return replace(seg, labels=labels, classes=tuple(classes), regions=regions)


def _alignment(ours: Geometry, grid: Geometry) -> tuple[list[int], list[int], list[int]] | None:
    """How our axes lie in the other grid: axis order, flipped axes, lowest corner; None where voxels differ."""
    matrix = np.linalg.inv(grid.affine) @ ours.affine
    steps, start = np.array(matrix[:3, :3]), matrix[:3, 3]
    for axis in range(3):
        if ours.shape[axis] == 1:  # one slice has no step of its own
            steps[:, axis] = steps[:, axis] / np.abs(steps[:, axis]).max()
    whole = np.rint(steps)
    extent = np.array(ours.shape, dtype=np.float64) - 1
    if np.abs(np.abs(whole).sum(axis=0) - 1).max() > 0 or np.abs(np.abs(whole).sum(axis=1) - 1).max() > 0:
        return None
    apart = np.abs(steps - whole) @ extent + np.abs(start - np.rint(start))
    if apart.max() > ALIGNED_VOXELS:
        return None
    order = [int(np.abs(whole[other]).argmax()) for other in range(3)]
    flips = [other for other in range(3) if whole[other, order[other]] < 0]
    ends = np.stack([np.rint(start), np.rint(start) + whole @ extent])
    return order, flips, [int(v) for v in ends.min(axis=0)]


def _put(
    array: npt.NDArray[Any], order: list[int], flips: list[int], low: list[int], shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    """The array turned and copied into zeros of `shape` at `low`; what falls outside is lost."""
    turned = np.flip(array.transpose(order), tuple(flips)) if flips else array.transpose(order)
    out = np.zeros(shape, dtype=array.dtype)
    into = tuple(slice(max(0, a), max(0, min(n, a + m))) for a, n, m in zip(low, shape, turned.shape))
    take = tuple(slice(s.start - a, s.stop - a) for s, a in zip(into, low))
    if all(s.stop > s.start for s in into):
        out[into] = turned[take]
    return out


def _opened(path: Path) -> Dataset:
    from pydicom import dcmread

    try:
        header = read_header(path)
        if str(header.get("SOPClassUID", "")) not in SEGMENTATION_CLASSES:
            raise UserError(
                "is a DICOM file but no segmentation", path.name, "give a SEG file or a label volume"
            )
        dataset = dcmread(path, force=True)
    except NotASlice as err:
        raise UserError(f"cannot be read as a segmentation: {err.reason}", path.name) from err
    known = header.pixel_bytes
    if known is None or not dataset.get("SegmentSequence"):
        raise UserError("is a segmentation without pixels or segments", path.name, "export it again")
    if known["declared"] >= 0 and known["present"] < known["declared"]:
        raise UserError("is damaged: its pixel data is cut short", path.name, "copy or export the file again")
    return dataset


def _class(item: Any, position: int) -> ClassInfo:
    types = item.get("SegmentedPropertyTypeCodeSequence")
    code = None
    if types:
        value = types[0].get("CodeValue") or types[0].get("LongCodeValue") or ""
        code = Code(
            str(value), str(types[0].get("CodingSchemeDesignator", "")), str(types[0].get("CodeMeaning", ""))
        )
    laterality = None
    for modifier in (types[0].get("SegmentedPropertyTypeModifierCodeSequence") or ()) if types else ():
        laterality = LATERALITY.get(str(modifier.get("CodeValue", "")), laterality)
    lab = item.get("RecommendedDisplayCIELabValue")
    colour = to_rgb([int(v) for v in lab]) if lab is not None and len(lab) == 3 else default_colour(position)
    name = str(item.get("SegmentLabel") or f"segment {item.SegmentNumber}")
    return ClassInfo(name, int(item.SegmentNumber), colour, code, laterality)  # type: ignore[arg-type]


def _group(dataset: Any, shared: Any, own: Any, name: str) -> Any:
    """The first item of a functional group: the frame's own, else the one all frames share."""
    for place in (own, shared):
        found = None if place is None else place.get(name)
        if found:
            return found[0]
    return None


def _placed(dataset: Dataset, where: str) -> _Frames:
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    positions, segments = [], []
    for groups in own:
        position = _group(dataset, shared, groups, "PlanePositionSequence")
        if position is None or position.get("ImagePositionPatient") is None:
            raise UserError(
                "has frames without a position in space (a film or a slide)",
                where,
                "give a segmentation of a volume",
            )
        positions.append([float(v) for v in position.ImagePositionPatient])
        segment = _group(dataset, shared, groups, "SegmentIdentificationSequence")
        segments.append(0 if segment is None else int(segment.ReferencedSegmentNumber))
    first = own[0] if own else None
    plane = _group(dataset, shared, first, "PlaneOrientationSequence")
    measures = _group(dataset, shared, first, "PixelMeasuresSequence")
    if not positions or plane is None or measures is None:
        raise UserError("has no geometry (position, orientation, spacing)", where, "export it again")
    geometry, slices = _grid(dataset, np.array(positions), plane, measures, where)
    return _Frames(geometry, slices, tuple(segments))


def _grid(
    dataset: Dataset, positions: npt.NDArray[np.float64], plane: Any, measures: Any, where: str
) -> tuple[Geometry, tuple[int, ...]]:
    """The even grid through the frames' positions, and each frame's place on it."""
    orientation = np.array([float(v) for v in plane.ImageOrientationPatient])
    along_columns, along_rows = orientation[:3], orientation[3:]
    row_spacing, column_spacing = (float(v) for v in measures.PixelSpacing)
    normal = np.cross(along_columns, along_rows)
    places = positions @ normal
    first, last = positions[places.argmin()], positions[places.argmax()]
    distance = _distance(places, measures, where)
    numbers = (places - places.min()) / distance
    if np.abs(numbers - np.rint(numbers)).max() > max(GRID_SHARE, 0.02 / distance):
        raise UserError("has frames that do not lie at even distances", where, "use the label volume instead")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along_columns * column_spacing, along_rows * row_spacing
    way = float((last - first) @ normal)
    affine[:3, 2] = normal * distance if way <= 0 else (last - first) * (distance / way)
    affine[:3, 3] = first
    shape = (int(dataset.Columns), int(dataset.Rows), round(float(numbers.max())) + 1)
    return Geometry(shape, LPS_TO_RAS @ affine), tuple(int(n) for n in np.rint(numbers))


def _distance(places: npt.NDArray[np.float64], measures: Any, where: str) -> float:
    """Distance between slices: as the frames lie, told by the header where frames in between are left out."""
    gaps = np.diff(np.unique(np.round(places, 3)))
    smallest = float(gaps.min()) if len(gaps) else 0.0
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        value = abs(float(measures.get(name) or 0.0))
        if value > 0 and (not smallest or _is_multiple(smallest, value)):
            return value
    if smallest <= 0:
        raise UserError("has one frame and no slice thickness", where, "use the label volume instead")
    return smallest


def _is_multiple(distance: float, step: float) -> bool:
    ratio = distance / step
    return ratio > 0.5 and abs(ratio - round(ratio)) < GRID_SHARE


def _pictures(dataset: Dataset, where: str) -> Iterator[npt.NDArray[np.uint8]]:
    """The frames one after the other: (rows, columns); packed bits are unpacked frame by frame."""
    rows, columns, count = int(dataset.Rows), int(dataset.Columns), int(dataset.get("NumberOfFrames") or 1)
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if int(dataset.BitsAllocated) == 1 and syntax in (EXPLICIT_LITTLE, IMPLICIT_LITTLE):
        yield from _unpacked(bytes(dataset.PixelData), count, rows, columns, where)
        return
    if syntax not in UNCOMPRESSED and syntax != RLE:
        claimed = rows * columns * max(1, int(dataset.BitsAllocated) // 8)
        yield from decoded_frames(Path(str(dataset.filename)), syntax, claimed, where, count)
        return
    from pydicom.pixels.utils import iter_pixels

    try:
        for picture in iter_pixels(dataset):
            yield np.asarray(picture)
    except Exception as err:  # damaged bytes fail in many ways
        raise decoding_failed(type(err).__name__, syntax, where) from err


def _unpacked(
    data: bytes, count: int, rows: int, columns: int, where: str
) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames of packed bits, least significant first; a frame may begin inside a byte."""
    size = rows * columns
    if len(data) * 8 < size * count:
        raise UserError("is damaged: its pixel data is cut short", where, "copy or export the file again")
    packed = np.frombuffer(data, dtype=np.uint8)
    for number in range(count):
        start = number * size
        part = packed[start // 8 : (start + size + 7) // 8]
        bits = np.unpackbits(part, bitorder="little")[start % 8 : start % 8 + size]
        yield bits.reshape(rows, columns)


def _from_masks(
    dataset: Dataset, frames: _Frames, classes: tuple[ClassInfo, ...], where: str
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    """Labels from one mask a frame; regions as well where masks of different segments meet."""
    full = 1
    if str(dataset.SegmentationType) == "FRACTIONAL":
        full = int(dataset.get("MaximumFractionalValue", 255))
    positions = {info.index: n for n, info in enumerate(classes)}
    columns, rows, count = frames.geometry.shape
    labels = np.zeros(
        (count, rows, columns), dtype=np.uint8 if max(positions, default=0) < 256 else np.uint16
    )
    regions: npt.NDArray[np.bool_] | None = None
    for picture, place, segment in zip(_pictures(dataset, where), frames.slices, frames.segments):
        if segment not in positions:
            raise UserError(
                f"has a frame of segment {segment}, which it does not describe", where, "export it again"
            )
        mask = picture == full
        if full != 1 and not (mask | (picture == 0)).all():
            raise UserError(
                "holds fractions (probabilities), not labels",
                where,
                "threshold it, or export a binary segmentation",
            )
        if regions is None and np.any(mask & (labels[place] != 0) & (labels[place] != segment)):
            refuse_oversize(labels.size * len(classes), labels.size * len(classes), where)
            regions = np.stack([labels == info.index for info in classes])
        if regions is not None:
            regions[positions[segment], place] |= mask
        labels[place][mask] = segment
    if regions is None:
        return labels.transpose(2, 1, 0), None
    turned = regions.transpose(0, 3, 2, 1)
    return paint(turned, classes), turned


def _labelmap(dataset: Dataset, frames: _Frames, where: str) -> npt.NDArray[Any]:
    columns, rows, count = frames.geometry.shape
    kind = np.uint8 if int(dataset.BitsAllocated) == 8 else np.uint16
    labels = np.zeros((count, rows, columns), dtype=kind)
    padding: Any = dataset.get("PixelPaddingValue")
    for picture, place in zip(_pictures(dataset, where), frames.slices):
        labels[place] = picture
        if padding is not None:
            labels[place][picture == int(padding)] = 0
    known = {int(item.SegmentNumber) for item in dataset.SegmentSequence} | {0}
    strange = [value for value in value_counts(labels) if value not in known]
    if strange:
        raise UserError(f"has values {strange[:8]} that no segment describes", where, "export it again")
    return labels.transpose(2, 1, 0)


def by_name(classes: tuple[ClassInfo, ...]) -> Mapping[str, int]:
    """Position of every class by its name."""
    return {info.name: n for n, info in enumerate(classes)}
