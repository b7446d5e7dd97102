"""Writes a result as a DICOM segmentation (BINARY) that viewers open, and proves that it lies where it should.

Every frame is made from one source picture and placed by that picture's position and orientation; no plane is known
by name. The file is read back with a reader of its own and compared in millimetres before it gets its name.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.core.atomic import atomic_path
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.io.dicom.colour import to_cielab
from medseg.io.dicom.read import read_stack
from medseg.io.dicom.read_seg import by_name, place_on, read_seg
from medseg.io.dicom.seg_frames import fill, template_pixels
from medseg.io.dicom.stacks import Stack, geometry_of

if TYPE_CHECKING:
    from highdicom.seg import Segmentation as SegFile
    from highdicom.seg import SegmentDescription
    from pydicom import Dataset

__all__ = ["empty_classes", "read_seg", "write_seg"]

CENTROID_ALLOWED_MM = 0.1
PRIVATE_SCHEME = "99MEDSEG"
LONGEST_LABEL = 64
SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}


def write_seg(
    seg: Segmentation,
    source_files: Sequence[Path],
    path: Path,
    *,
    algorithm: str = "medseg",
    version: str = "",
) -> Path:
    """Writes the classes that have voxels as segments of one BINARY DICOM segmentation.

    seg: labels (or regions) on the grid of the source series, or on an even grid through it where the series was
        resampled; each source picture then takes the slice nearest to it.
    source_files: the files of the series. algorithm, version: what made the labels, as the file will say.

    The file is read back and compared: equal voxels and, per class, centroids at most 0.1 mm apart. Classes without
    voxels are not written (`empty_classes` names them). Raises UserError, and leaves no file, where there is nothing
    to write, where the grids differ, or where what was read back is not what was meant.
    """
    stack = read_stack(source_files)
    masks, infos = _masks(seg, stack)
    if not infos:
        raise UserError(
            "no class has a voxel: a DICOM segmentation cannot be empty",
            path.name,
            "see the report for the empty case",
        )
    sources = _sources(stack)
    made = _file(masks, infos, sources, stack, algorithm, version)
    with atomic_path(path, suffix=".dcm") as part:
        made.save_as(part)
        _compare(read_seg(part), masks, infos, stack, path.name)
    return path


def empty_classes(seg: Segmentation) -> tuple[str, ...]:
    """Names of the classes without a voxel, which a DICOM segmentation leaves out."""
    return tuple(info.name for n, info in enumerate(seg.classes) if not seg.mask(n).any())


def _masks(seg: Segmentation, stack: Stack) -> tuple[npt.NDArray[Any], tuple[ClassInfo, ...]]:
    """What each source picture shows, in the order of the stack, and the classes that have voxels there.

    (slices, rows, columns) of segment numbers 1..N, or (slices, rows, columns, N) of 0 and 1 where classes overlap.
    """
    placed = _on_stack(seg, stack)
    present = _present(placed.labels) if placed.regions is None else None
    infos = [
        info
        for n, info in enumerate(seg.classes)
        if (placed.mask(n).any() if present is None else info.index < len(present) and present[info.index])
    ]
    if present is None or placed.regions is not None:
        assert placed.regions is not None
        keep = [n for n, info in enumerate(seg.classes) if info in infos]
        return placed.regions[keep].transpose(3, 2, 1, 0).astype(np.uint8), tuple(infos)
    table = np.zeros(len(present), dtype=np.uint8 if len(infos) < 255 else np.uint16)
    for number, info in enumerate(infos):
        table[info.index] = number + 1
    return table[placed.labels.transpose(2, 1, 0)], tuple(infos)


def _present(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Voxels of every label value, slice by slice: counting needs eight bytes a voxel."""
    counts = np.zeros(int(labels.max(initial=0)) + 1, dtype=np.int64)
    for k in range(labels.shape[2]):
        counts += np.bincount(labels[:, :, k].ravel(), minlength=len(counts))
    return counts


def _on_stack(seg: Segmentation, stack: Stack) -> Segmentation:
    """The segmentation with one slice a source picture, axes as (columns, rows, slices)."""
    grid = _stack_grid(stack)
    even = bool(np.abs(np.diff(stack.places, 2)).max(initial=0.0) < 0.05 * grid.spacing[2])
    if even:
        placed = place_on(seg, grid)
        if placed.geometry.same_grid(grid, tolerance_voxels=0.05):
            return placed
        seg.geometry.require_same_grid(grid, "the segmentation", "the source series", "")
    return _nearest_slices(seg, stack, grid)


def _stack_grid(stack: Stack) -> Geometry:
    count = len(stack.slices)
    way = float(stack.places[-1] - stack.places[0])
    return geometry_of(stack, way / (count - 1) if count > 1 else stack.first.thickness or 1.0, count)


def _nearest_slices(seg: Segmentation, stack: Stack, grid: Geometry) -> Segmentation:
    """Of a resampled series: for every source picture the slice of the segmentation nearest to it."""
    from dataclasses import replace

    positions = np.array([s.position for s in stack.slices]) * (-1.0, -1.0, 1.0)
    index = seg.geometry.to_index(positions)
    same_plane = np.abs(seg.geometry.affine[:3, :2] - grid.affine[:3, :2]).max() < 1e-3
    if not same_plane or seg.geometry.shape[:2] != grid.shape[:2] or np.abs(index[:, :2]).max() > 0.05:
        seg.geometry.require_same_grid(grid, "the segmentation", "the source series", "")
    nearest = np.clip(np.rint(index[:, 2]).astype(int), 0, seg.geometry.shape[2] - 1)
    regions = None if seg.regions is None else seg.regions[..., nearest]
    return replace(seg, labels=seg.labels[..., nearest], geometry=grid, regions=regions)


def _sources(stack: Stack) -> list[Dataset]:
    """The source pictures' headers in the order of the stack; one for a multi-frame file."""
    from pydicom import dcmread

    paths = list(dict.fromkeys(s.path for s in stack.slices))
    return [dcmread(path, stop_before_pixels=True, force=True) for path in paths]


def _file(
    masks: npt.NDArray[Any],
    infos: Sequence[ClassInfo],
    sources: list[Dataset],
    stack: Stack,
    algorithm: str,
    version: str,
) -> SegFile:
    import highdicom as hd
    from highdicom.seg import Segmentation as SegFile

    if not version:
        from medseg import __version__ as version
    described = [_segment(info, number + 1, algorithm, version) for number, info in enumerate(infos)]
    try:
        # The library's remarks on a patient's name quote the name.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = SegFile(
                source_images=sources,
                pixel_array=template_pixels(masks, len(infos)),
                segmentation_type="BINARY",
                segment_descriptions=described,
                series_instance_uid=hd.UID(),
                series_number=(stack.first.series_number or 0) % 1000 + 9000,
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="medseg",
                manufacturer_model_name=algorithm[:LONGEST_LABEL],
                software_versions=version,
                device_serial_number="0",
                pixel_measures=_measures(stack),
                content_label="SEGMENTATION",
                content_description="medseg",
                series_description=f"medseg {algorithm}"[:LONGEST_LABEL],
            )
    except (AttributeError, ValueError, TypeError, KeyError) as err:
        raise UserError(
            f"the source series cannot carry a DICOM segmentation ({_plain(err)})",
            hint="its headers lack what the standard asks for; write nifti or nrrd instead",
        ) from err
    for item, info in zip(made.SegmentSequence, infos):
        _add_side(item, info)
    fill(made, masks, stack.slices, len(infos))
    return made


def _measures(stack: Stack) -> Any:
    """Pixel spacing and slice distance; no distance is claimed for pictures that lie unevenly."""
    import highdicom as hd

    first, gaps = stack.first, np.diff(stack.places)
    even = len(gaps) and np.abs(gaps - gaps.mean()).max() < 0.01 * gaps.mean()
    distance = float(gaps.mean()) if even else None
    return hd.PixelMeasuresSequence(
        pixel_spacing=(first.row_spacing, first.column_spacing),
        slice_thickness=distance or first.thickness or (float(gaps.min()) if len(gaps) else 1.0),
        spacing_between_slices=distance,
    )


def _plain(err: Exception) -> str:
    """The library's reason without values of the header: only words that name attributes."""
    words = [w.strip("'\".,") for w in str(err).split()]
    names = [
        w for w in words if w[:1].isupper() and w.isalpha() and any(c.islower() for c in w) and len(w) > 5
    ]
    return f"{type(err).__name__}{': ' + ', '.join(dict.fromkeys(names)) if names else ''}"


def _segment(info: ClassInfo, number: int, algorithm: str, version: str) -> SegmentDescription:
    import highdicom as hd
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from highdicom.sr.coding import CodedConcept

    category = CodedConcept("123037004", "SCT", "Anatomical Structure")
    if info.code is None:
        kind = CodedConcept(f"C{info.index}", PRIVATE_SCHEME, info.name[:LONGEST_LABEL])
    else:
        kind = CodedConcept(info.code.value, info.code.scheme, info.code.meaning[:LONGEST_LABEL])
    lightness, a, b = to_cielab(info.colour)
    return SegmentDescription(
        segment_number=number,
        segment_label=info.name[:LONGEST_LABEL],
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm[:LONGEST_LABEL],
            version=version[:LONGEST_LABEL],
            family=CodedConcept("123110", "DCM", "Artificial Intelligence"),
        ),
        tracking_uid=hd.UID(),
        tracking_id=info.name[:LONGEST_LABEL],
        display_color=CIELabColor(lightness / 655.35, max(-128.0, a / 257 - 128), max(-128.0, b / 257 - 128)),
    )


def _add_side(item: Any, info: ClassInfo) -> None:
    """Says left or right by code as well: names are read by people, codes by programs."""
    if info.laterality is None:
        return
    from pydicom import Dataset
    from pydicom.sequence import Sequence as Items

    value, meaning = SIDES[info.laterality]
    side = Dataset()
    side.CodeValue, side.CodingSchemeDesignator, side.CodeMeaning = value, "SCT", meaning
    item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = Items([side])


def _compare(
    back: Segmentation, masks: npt.NDArray[Any], infos: Sequence[ClassInfo], stack: Stack, where: str
) -> None:
    """Compares what was read back with what was meant, per class: voxel counts, and centroids in mm."""
    meant, places = _measured_on(stack, masks, len(infos))
    found, found_places = _measured_back(back)
    names = by_name(back.classes)
    for number, info in enumerate(infos):
        at = names.get(info.name[:LONGEST_LABEL])
        count = 0 if at is None else int(found[at])
        if at is None or count != int(meant[number]):
            raise UserError(
                f"class {info.name}: {int(meant[number])} voxels were meant, {count} were read back; not kept",
                where,
                "write nifti instead and report this",
            )
        apart = float(np.linalg.norm(found_places[at] - places[number]))
        if apart > CENTROID_ALLOWED_MM:
            raise UserError(
                f"class {info.name} came back {apart:.2f} mm from its place; the file was not kept",
                where,
                "write nifti instead and report this",
            )


def _measured_on(
    stack: Stack, masks: npt.NDArray[Any], count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Voxels (K,) and centroids (K, 3) in LPS mm of what the source pictures show, by the pictures' own positions."""
    first, totals, sums = stack.first, np.zeros(count), np.zeros((count, 3))
    for one, picture in zip(stack.slices, masks):
        counts, columns, rows = _moments(picture, count)
        totals += counts
        sums += counts[:, None] * one.position
        sums += columns[:, None] * (first.along_columns * first.column_spacing)
        sums += rows[:, None] * (first.along_rows * first.row_spacing)
    return totals, sums / np.maximum(totals, 1)[:, None]


def _measured_back(back: Segmentation) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The same of a segmentation that was read, by its own affine."""
    count = len(back.classes)
    totals, sums = np.zeros(count), np.zeros((count, 3))
    table = np.zeros(int(back.labels.max(initial=0)) + 1, dtype=np.int64)
    for number, info in enumerate(back.classes):
        if info.index < len(table):
            table[info.index] = number + 1
    for k in range(back.geometry.shape[2]):
        if back.regions is None:
            picture = table[back.labels[:, :, k].T]
        else:
            picture = np.moveaxis(back.regions[..., k], 0, -1).transpose(1, 0, 2)
        counts, columns, rows = _moments(picture, count)
        totals += counts
        sums += np.stack([columns, rows, counts * k], axis=1)
    world = back.geometry.to_world(sums / np.maximum(totals, 1)[:, None])
    return totals, world * (-1.0, -1.0, 1.0)


def _moments(
    picture: npt.NDArray[Any], count: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Voxels, sums of column numbers and sums of row numbers of every segment in one picture.

    picture: (rows, columns) of 1..count, or (rows, columns, count) of 0 and 1.
    """
    if picture.ndim == 3:
        down, across = picture.sum(axis=1, dtype=np.float64), picture.sum(axis=0, dtype=np.float64)
        return down.sum(axis=0), np.arange(len(across)) @ across, np.arange(len(down)) @ down
    rows, columns = np.nonzero(picture)
    if not len(rows):
        return np.zeros(count), np.zeros(count), np.zeros(count)
    values = picture[rows, columns]
    sums = [np.bincount(values, weights=w, minlength=count + 1)[1:] for w in (None, columns, rows)]
    counts, across, down = (s.astype(np.float64) for s in sums)
    return counts, across, down
