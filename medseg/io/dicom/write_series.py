"""Writes a volume as a DICOM CT series, one file a slice: what phantoms and tests are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.core.atomic import atomic_path
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry

if TYPE_CHECKING:
    from pydicom import Dataset

RAS_LPS = np.diag([-1.0, -1.0, 1.0])
"""Turns RAS directions and points into DICOM's LPS, and back."""

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"


@dataclass(frozen=True)
class SeriesFacts:
    """What the headers of a series say beside its voxels and their place.

    study, series: texts that the study's and the series' UIDs are derived from; equal texts give equal UIDs.
    rescale_slope, rescale_intercept: stored value = (HU - intercept) / slope.
    padding_hu: HU value outside the round field of view, declared as PixelPaddingValue.
    slice_thickness_mm: None for the distance between slices.
    acquisition: AcquisitionNumber. image_type: second and third value of ImageType are PRIMARY and AXIAL by default.
    """

    study: str = "1"
    series: str = "1"
    patient_name: str = "Phantom^Made"
    series_number: int = 1
    description: str = "phantom"
    kernel: str = "B40f"
    kvp: float = 120.0
    contrast_agent: str = ""
    rescale_slope: float = 1.0
    rescale_intercept: float = -1024.0
    padding_hu: int | None = None
    slice_thickness_mm: float | None = None
    acquisition: int = 1
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL")
    study_date: str = "20200101"
    time: str = "120000"


def write_ct_series(
    array: npt.NDArray[np.integer[Any]],
    geometry: Geometry,
    folder: Path,
    *,
    patient: str = "phantom",
    facts: SeriesFacts | None = None,
    compress: bool = False,
    name: str = "slice",
) -> list[Path]:
    """Writes HU values as a CT series and returns its files in the order of the third axis.

    Parameters
    ----------
    array: (X, Y, Z) integers in HU. Slices are cut across the third axis; the first axis runs along the columns of
        a picture and the second along its rows, wherever the affine points them.
    geometry: the grid in RAS+ mm. The first two axes stand at right angles; a third axis that leans is a gantry tilt.
    folder: where NAME-0001.dcm ... go; made if absent.
    patient: PatientID.
    facts: the other header values.
    compress: JPEG-LS lossless instead of plain little endian.
    name: how file names begin.

    Raises UserError for a grid that DICOM cannot describe or values that do not fit 16 bits.
    """
    facts = facts or SeriesFacts()
    _check(array, geometry)
    stored, signed = _stored_values(array, facts)
    template = _template(geometry, patient, facts, signed)
    positions = geometry.to_world([(0, 0, k) for k in range(array.shape[2])]) @ RAS_LPS
    # Tables move along the patient: SliceLocation is the place along the slices' normal.
    normal = np.cross(*_directions(geometry)[:2])
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for k, position in enumerate(positions):
        template.SOPInstanceUID = uid_of(patient, facts.study, facts.series, str(k))
        template.file_meta.MediaStorageSOPInstanceUID = template.SOPInstanceUID
        template.InstanceNumber = k + 1
        template.ImagePositionPatient = decimals(position)
        template.SliceLocation = decimals([position @ normal])[0]
        path = folder / f"{name}-{k + 1:04d}.dcm"
        _write_slice(template, np.ascontiguousarray(stored[:, :, k].T), path, compress)
        files.append(path)
    return files


def uid_of(*parts: str) -> str:
    """A UID of the form 2.25.<number>, the same for the same texts."""
    digest = hashlib.sha256("\0".join(("medseg", *parts)).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big')}"


def decimals(values: Iterable[float]) -> list[Any]:
    """Numbers as DICOM's decimal strings, rounded to the sixteen characters the format has."""
    from pydicom.valuerep import DSfloat, format_number_as_ds

    return [DSfloat(format_number_as_ds(float(v) + 0.0)) for v in values]


def _check(array: npt.NDArray[Any], geometry: Geometry) -> None:
    if array.ndim != 3 or array.shape != geometry.shape or geometry.unit != "mm":
        raise UserError(
            f"a DICOM series holds a 3D volume in mm, got an array of {array.shape} on {geometry.describe()}"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"HU values of a DICOM series are whole numbers, got {array.dtype}")
    along_columns, along_rows, _ = _directions(geometry)
    if abs(float(along_columns @ along_rows)) > 1e-4:
        raise UserError(
            "the rows and columns of a DICOM picture stand at right angles, this grid's do not",
            hint="resample the volume onto a straight grid first",
        )


def _directions(geometry: Geometry) -> npt.NDArray[np.float64]:
    """Unit vectors (3, 3) of the grid's axes in LPS, one a row."""
    columns = geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    return (RAS_LPS @ columns).T


def _stored_values(array: npt.NDArray[Any], facts: SeriesFacts) -> tuple[npt.NDArray[Any], bool]:
    """HU -> stored numbers and whether they are signed."""
    if facts.rescale_slope == 1.0 and float(facts.rescale_intercept).is_integer():
        stored = array.astype(np.int32) - np.int32(facts.rescale_intercept)
    else:
        stored = np.rint((array - facts.rescale_intercept) / facts.rescale_slope).astype(np.int32)
    low, high = int(stored.min()), int(stored.max())
    if facts.padding_hu is not None:
        padding = _padding(facts)
        low, high = min(low, padding), max(high, padding)
    signed = low < 0
    limits = np.iinfo(np.int16 if signed else np.uint16)
    if low < limits.min or high > limits.max:
        raise UserError(
            f"stored values {low} to {high} do not fit 16 bits",
            hint="clip the volume to -32768..32767 HU or choose another rescale slope and intercept",
        )
    return stored.astype(limits.dtype), signed


def _padding(facts: SeriesFacts) -> int:
    return round(((facts.padding_hu or 0) - facts.rescale_intercept) / facts.rescale_slope)


def _template(geometry: Geometry, patient: str, facts: SeriesFacts, signed: bool) -> Dataset:
    """A header with everything that the slices of the series share."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = UID(CT_IMAGE)
    header.file_meta.TransferSyntaxUID = UID(EXPLICIT_LITTLE)
    header.file_meta.ImplementationClassUID = UID(uid_of("implementation"))
    header.SpecificCharacterSet = "ISO_IR 192"
    header.SOPClassUID = UID(CT_IMAGE)
    _describe_study(header, patient, facts)
    _describe_scan(header, geometry, facts)
    _describe_pixels(header, geometry, facts, signed)
    return header


def _describe_study(header: Dataset, patient: str, facts: SeriesFacts) -> None:
    header.PatientName = facts.patient_name
    header.PatientID = patient
    header.PatientBirthDate = ""
    header.PatientSex = "O"
    header.StudyInstanceUID = uid_of(patient, "study", facts.study)
    header.SeriesInstanceUID = uid_of(patient, "study", facts.study, "series", facts.series)
    header.FrameOfReferenceUID = uid_of(patient, "study", facts.study, "frame")
    header.PositionReferenceIndicator = ""
    header.StudyDate = header.SeriesDate = header.AcquisitionDate = header.ContentDate = facts.study_date
    header.StudyTime = header.SeriesTime = header.AcquisitionTime = header.ContentTime = facts.time
    header.StudyID = "1"
    header.AccessionNumber = ""
    header.ReferringPhysicianName = ""
    header.SeriesNumber = facts.series_number
    header.SeriesDescription = facts.description
    header.AcquisitionNumber = facts.acquisition


def _describe_scan(header: Dataset, geometry: Geometry, facts: SeriesFacts) -> None:
    along_columns, along_rows, along_slices = _directions(geometry)
    normal = np.cross(along_columns, along_rows)
    distance = abs(float(along_slices @ normal)) * geometry.spacing[2]
    header.Modality = "CT"
    header.Manufacturer = "medseg"
    header.ManufacturerModelName = "phantom"
    header.PatientPosition = "HFS"
    header.ImageType = list(facts.image_type)
    header.KVP = decimals([facts.kvp])[0]
    header.ConvolutionKernel = facts.kernel
    if facts.contrast_agent:
        header.ContrastBolusAgent = facts.contrast_agent
    header.SliceThickness = decimals([facts.slice_thickness_mm or distance])[0]
    header.SpacingBetweenSlices = decimals([distance])[0]
    header.ImageOrientationPatient = decimals([*along_columns, *along_rows])
    # PixelSpacing gives the distance between rows first.
    header.PixelSpacing = decimals([geometry.spacing[1], geometry.spacing[0]])


def _describe_pixels(header: Dataset, geometry: Geometry, facts: SeriesFacts, signed: bool) -> None:
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.Rows, header.Columns = geometry.shape[1], geometry.shape[0]
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = int(signed)
    if facts.padding_hu is not None:
        header.add_new("PixelPaddingValue", "SS" if signed else "US", _padding(facts))
    header.RescaleIntercept, header.RescaleSlope = decimals([facts.rescale_intercept, facts.rescale_slope])
    header.RescaleType = "HU"
    header.WindowCenter, header.WindowWidth = decimals([40.0, 400.0])


def _write_slice(template: Dataset, pixels: npt.NDArray[Any], path: Path, compress: bool) -> None:
    from pydicom.uid import UID

    template.file_meta.TransferSyntaxUID = UID(EXPLICIT_LITTLE)
    template.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    template["PixelData"].VR = "OW"
    template["PixelData"].is_undefined_length = False
    if compress:
        template.compress(UID(JPEG_LS_LOSSLESS), generate_instance_uid=False)
    with atomic_path(path, flush=False) as part:  # a flush a slice took a fifth of the time
        template.save_as(part, enforce_file_format=True)
