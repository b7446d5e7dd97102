"""Writes a result as a DICOM structure set (RTSTRUCT): closed contours on the source pictures' planes.

Each class is one structure with its colour and code. Holes are joined to their outlines by a channel of no width
(`contours`). The file is read back, filled and compared in millimetres before it gets its name.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.core.atomic import atomic_path
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.io.dicom.class_names import LONGEST_LABEL, long_string, to_unicode
from medseg.io.dicom.colour import to_cielab
from medseg.io.dicom.compare import CENTROID_ALLOWED_MM, measured_on, moments
from medseg.io.dicom.contours import Ring, outlines
from medseg.io.dicom.on_stack import masks_on
from medseg.io.dicom.read import read_stack
from medseg.io.dicom.read_rtstruct import STRUCTURE_SET, Structure, combined, read_rtstruct, structures_of
from medseg.io.dicom.seg_frames import shown_in
from medseg.io.dicom.stacks import Stack

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["read_rtstruct", "write_rtstruct"]

DICE_ALLOWED = 0.97
"""The least Dice between the mask and what the written contours fill; on sound grids it is 1."""

PRIVATE_SCHEME = "99MEDSEG"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
"""Contours longer than 64 kB have no place in the explicit syntaxes' two-byte length."""

CARRIED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID",
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "SpecificCharacterSet",
    "PatientAge", "PatientSize", "PatientWeight",
)  # fmt: skip
"""What a structure set shares with its images: whose study it is."""


def write_rtstruct(
    seg: Segmentation,
    source_files: Sequence[Path],
    path: Path,
    *,
    algorithm: str = "medseg",
    version: str = "",
) -> Path:
    """Writes the classes that have voxels as structures of one DICOM structure set.

    seg, source_files, algorithm, version: as for `seg.write_seg`.

    The file is read back and filled: per class a Dice of at least 0.97 with the mask and centroids at most 0.1 mm
    apart. Raises UserError, and leaves no file, where there is nothing to write, where the grids differ, or where
    what was read back is not what was meant.
    """
    stack = read_stack(source_files)
    masks, infos = masks_on(seg, stack)
    if not infos:
        raise UserError(
            "no class has a voxel: a structure set cannot be empty",
            path.name,
            "see the report for the empty case",
        )
    if stack.first.frame is not None:
        raise UserError(
            "contours on a multi-frame file are read by few programs", path.name, "write dicom_seg instead"
        )
    made = _structure_set(masks, infos, stack, algorithm, version)
    with atomic_path(path, suffix=".dcm") as part:
        made.save_as(part, enforce_file_format=True)
        _compare(part, masks, infos, stack, path.name)
    return path


def _structure_set(
    masks: npt.NDArray[Any], infos: Sequence[ClassInfo], stack: Stack, algorithm: str, version: str
) -> Dataset:
    from pydicom import dcmread
    from pydicom.sequence import Sequence as Items

    if not version:
        from medseg import __version__ as version
    source = dcmread(stack.first.path, stop_before_pixels=True, force=True)
    to_unicode(source)
    made = _header(source, stack, algorithm, version)
    frame = made.FrameOfReferenceUID
    made.ReferencedFrameOfReferenceSequence = Items([_referenced(stack, frame)])
    contours = _contours(masks, len(infos), stack)
    numbered = list(enumerate(infos, start=1))
    made.StructureSetROISequence = Items([_structure(info, n, frame, algorithm) for n, info in numbered])
    made.ROIContourSequence = Items([_drawn(info, n, contours[n - 1]) for n, info in numbered])
    made.RTROIObservationsSequence = Items([_observed(info, n) for n, info in numbered])
    return made


def _header(source: Dataset, stack: Stack, algorithm: str, version: str) -> Dataset:
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, generate_uid

    made = Dataset()
    for name in CARRIED:
        if name in source:
            made[name] = source[name]
    for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                 "AccessionNumber", "ReferringPhysicianName"):  # fmt: skip
        if name not in made:
            setattr(made, name, "")
    now = datetime.datetime.now()
    made.SOPClassUID, made.SOPInstanceUID = UID(STRUCTURE_SET), generate_uid(prefix=None)
    made.SeriesInstanceUID, made.Modality = generate_uid(prefix=None), "RTSTRUCT"
    made.SeriesNumber = (stack.first.series_number or 0) % 1000 + 9000
    made.SeriesDescription = f"medseg {algorithm}"[:LONGEST_LABEL]
    made.OperatorsName, made.Manufacturer = "", "medseg"
    made.ManufacturerModelName = algorithm[:LONGEST_LABEL]
    made.SoftwareVersions = version[:LONGEST_LABEL]
    made.InstanceNumber = 1
    made.FrameOfReferenceUID = stack.first.frame_of_reference or generate_uid(prefix=None)
    made.PositionReferenceIndicator = ""
    made.StructureSetLabel, made.StructureSetName = "medseg", algorithm[:LONGEST_LABEL]
    made.StructureSetDate = made.InstanceCreationDate = now.strftime("%Y%m%d")
    made.StructureSetTime = made.InstanceCreationTime = now.strftime("%H%M%S")
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = UID(IMPLICIT_LITTLE)
    return made


def _referenced(stack: Stack, frame_uid: str) -> Dataset:
    """The pictures that the contours lie on: frame of reference, study, series, instances."""
    from pydicom import Dataset
    from pydicom.sequence import Sequence as Items

    frame, study, series = Dataset(), Dataset(), Dataset()
    frame.FrameOfReferenceUID = frame_uid
    # The detached study management class is what this field has always held, though it is retired.
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = stack.first.study_uid
    series.SeriesInstanceUID = stack.first.series_uid
    series.ContourImageSequence = Items([_picture(one) for one in stack.slices])
    study.RTReferencedSeriesSequence = Items([series])
    frame.RTReferencedStudySequence = Items([study])
    return frame


def _picture(one: Any) -> Dataset:
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class, one.sop_uid
    return item


def _structure(info: ClassInfo, number: int, frame: str, algorithm: str) -> Dataset:
    from pydicom import Dataset

    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = frame
    item.ROIName = info.name
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = algorithm[:LONGEST_LABEL]
    return item


def _contours(masks: npt.NDArray[Any], count: int, stack: Stack) -> list[list[Dataset]]:
    """The contours of every class, picture by picture."""
    contours: list[list[Dataset]] = [[] for _ in range(count)]
    for one, picture in zip(stack.slices, masks):
        for number, mask in shown_in(picture, count):
            for ring in outlines(mask):
                points = (
                    one.position
                    + ring[:, :1] * (one.along_columns * one.column_spacing)
                    + ring[:, 1:] * (one.along_rows * one.row_spacing)
                )
                own = contours[number - 1]
                own.append(_contour(points, one, len(own) + 1))
    return contours


def _drawn(info: ClassInfo, number: int, contours: list[Dataset]) -> Dataset:
    from pydicom import Dataset
    from pydicom.sequence import Sequence as Items

    item = Dataset()
    item.ROIDisplayColor = list(info.colour)
    item.RecommendedDisplayCIELabValue = list(to_cielab(info.colour))
    item.ReferencedROINumber = number
    item.ContourSequence = Items(contours)
    return item


def _contour(points: npt.NDArray[np.float64], one: Any, number: int) -> Dataset:
    from pydicom import Dataset
    from pydicom.dataelem import RawDataElement
    from pydicom.sequence import Sequence as Items
    from pydicom.tag import Tag

    item = Dataset()
    item.ContourImageSequence = Items([_picture(one)])
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = len(points)
    item.ContourNumber = number
    # A tenth of a micrometre; as text at once, for an object a number would take minutes.
    text = "\\".join(f"{v:.4f}" for v in (points + 0.0).ravel().tolist()).encode()
    text += b" " * (len(text) % 2)
    tag = Tag("ContourData")
    item[tag] = RawDataElement(tag, "DS", len(text), text, 0, True, True)
    item.set_original_encoding(True, True)  # so that the text is written as it is, not number by number
    return item


def _observed(info: ClassInfo, number: int) -> Dataset:
    """What the structure is, by code."""
    from pydicom import Dataset
    from pydicom.sequence import Sequence as Items

    code = Dataset()
    if info.code is None:
        code.CodeValue, code.CodingSchemeDesignator = f"C{info.index}", PRIVATE_SCHEME
        code.CodeMeaning = info.name
    else:
        code.CodeValue, code.CodingSchemeDesignator = info.code.value, info.code.scheme
        code.CodeMeaning = long_string(info.code.meaning)
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    item.ROIObservationLabel = info.name[:16]
    item.RTROIIdentificationCodeSequence = Items([code])
    item.RTROIInterpretedType = ""
    item.ROIInterpreter = ""
    return item


def _compare(
    part: Path, masks: npt.NDArray[Any], infos: Sequence[ClassInfo], stack: Stack, where: str
) -> None:
    """Fills what was written and compares it with what was meant, class by class. Raises UserError."""
    from pydicom import dcmread

    found = structures_of(dcmread(part), where)
    if [s.info.name for s in found] != [info.name for info in infos]:
        raise UserError("the structures came back under other names; the file was not kept", where)
    meant, places = measured_on(stack, masks, len(infos))
    for number, structure in enumerate(found):
        count, common, middle = _measured_back(structure, number + 1, masks, stack)
        dice = 2 * common / (count + meant[number])
        apart = float(np.linalg.norm(middle - places[number]))
        if dice < DICE_ALLOWED or apart > CENTROID_ALLOWED_MM:
            raise UserError(
                f"class {structure.info.name} came back with a Dice of {dice:.3f}, {apart:.2f} mm from its place; "
                "the file was not kept",
                where,
                "write dicom_seg instead and report this",
            )


def _measured_back(
    structure: Structure, number: int, masks: npt.NDArray[Any], stack: Stack
) -> tuple[float, float, npt.NDArray[np.float64]]:
    """Of contours that were read: voxels, voxels shared with the mask, and the centroid in LPS mm."""
    first, shape = stack.first, masks.shape[1:3]
    total, common, sums = 0.0, 0.0, np.zeros(3)
    for place, rings in _by_picture(structure, stack).items():
        mask, _ = combined(rings, shape)
        used = np.flatnonzero(mask.any(axis=1))
        if not len(used):
            continue
        low, high = int(used[0]), int(used[-1]) + 1
        part, picture = mask[low:high], masks[place, low:high]
        meant = picture[..., number - 1] > 0 if picture.ndim == 3 else picture == number
        counts, columns, rows = moments(part.astype(np.uint8), 1)
        total += float(counts[0])
        common += float(np.count_nonzero(part & meant))
        sums += counts[0] * stack.slices[place].position
        sums += columns[0] * first.along_columns * first.column_spacing
        sums += (rows[0] + low * counts[0]) * first.along_rows * first.row_spacing
    return total, common, sums / max(total, 1.0)


def _by_picture(structure: Structure, stack: Stack) -> dict[int, list[Ring]]:
    """The contours in pixels of the picture whose plane they lie in, by that picture's number in the stack."""
    first, places = stack.first, stack.places
    found: dict[int, list[Ring]] = defaultdict(list)
    for points in structure.contours:
        place = int(np.abs(places - float((points @ first.normal).mean())).argmin())
        from_corner = points - stack.slices[place].position
        column = from_corner @ first.along_columns / first.column_spacing
        row = from_corner @ first.along_rows / first.row_spacing
        found[place].append(np.stack([column, row], axis=1))
    return found
