"""The attributes that are looked at, and how a value is taken out of a header that may be damaged."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
"""Where Enhanced files say what each of their frames is."""

TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "IssuerOfPatientID",
    "PatientName", "FrameOfReferenceUID", "Modality", "SeriesDescription", "ImageType", "Rows", "Columns",
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "BitsAllocated", "BitsStored",
    "PixelRepresentation", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue", "InstanceNumber",
    "AcquisitionNumber", "AcquisitionTime", "AcquisitionDateTime", "ContentTime", "TemporalPositionIdentifier",
    "TemporalPositionIndex", "TriggerTime", "EchoNumbers", "EchoTime", "DiffusionBValue", "InversionTime",
    "ConvolutionKernel", "ContrastBolusAgent", "SeriesNumber", "SliceLocation", "FrameReferenceTime",
    "NominalPercentageOfCardiacPhase", "RescaleType", "PixelPaddingRangeLimit", "HighBit",
    *FUNCTIONAL_GROUPS,
]  # fmt: skip

RESCALE = ("RescaleSlope", "RescaleIntercept", "RescaleType", "PixelPaddingValue", "PixelPaddingRangeLimit")

DISTINGUISHING = {
    "AcquisitionNumber": "acquisition",
    "TemporalPositionIdentifier": "temporal position",
    "TemporalPositionIndex": "temporal position",
    "TriggerTime": "trigger time",
    "NominalPercentageOfCardiacPhase": "cardiac phase",
    "EchoNumbers": "echo",
    "EchoTime": "echo time",
    "InversionTime": "inversion time",
    "DiffusionBValue": "b-value",
    "ImageType": "image type",
    "FrameType": "image type",
    "ConvolutionKernel": "kernel",
    "ContrastBolusAgent": "contrast agent",
    "FrameReferenceTime": "frame time",
    "AcquisitionTime": "acquisition time",
    "AcquisitionDateTime": "acquisition time",
    "StackID": "stack",
    "SliceThickness": "slice thickness",
}
"""What can tell two pictures of one place apart, in the order it is tried, and its name for people."""

SHOWN = frozenset(("EchoTime", "InversionTime", "DiffusionBValue", "TriggerTime", "SliceThickness",
                   "NominalPercentageOfCardiacPhase"))  # fmt: skip
"""Of these the number itself may be shown; of the others only that they differ."""


PLAIN_TEXT = frozenset(("AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"))
"""Kinds of values that are ASCII text whatever the character set; decoding them here takes a tenth of the time."""


@cache
def tags() -> dict[str, Any]:
    """Name -> tag of everything that is looked at."""
    from pydicom.tag import Tag

    return {name: Tag(name) for name in (*TAGS, *DISTINGUISHING)}


@cache
def _kinds() -> dict[Any, str]:
    from pydicom.datadict import dictionary_VR

    return {tag: dictionary_VR(tag) for tag in tags().values()}


def value_of(dataset: Any, name: str) -> Any:
    """The value of one of TAGS, or None; text that holds several values is a list of texts."""
    if isinstance(dataset, dict):
        return dataset.get(name)
    tag = tags()[name]
    if tag not in dataset:
        return None
    raw = dataset.get_item(tag)
    if isinstance(raw.value, bytes) and (raw.VR or _kinds()[tag]) in PLAIN_TEXT:
        text = raw.value.decode("ascii").rstrip(" \0")
        return text.split("\\") if "\\" in text else text or None
    return dataset[tag].value


def text_of(dataset: Any, name: str) -> str:
    """A value as text, several joined by backslashes; "" where it is absent or cannot be decoded."""
    try:
        value = value_of(dataset, name)
    except Exception:  # a value that cannot be decoded is as good as none
        return ""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return "\\".join(v.strip() for v in value)
    if (
        hasattr(value, "__iter__")
        and not hasattr(value, "original_string")
        and type(value).__name__ == "MultiValue"
    ):
        return "\\".join(str(v).strip() for v in value)
    return str(value).strip()


def whole(dataset: Any, name: str) -> int | None:
    """A whole number of the header, or None."""
    try:
        number = float(value_of(dataset, name))
        return int(number) if number.is_integer() else None
    except (TypeError, ValueError, AttributeError):
        return None


def floats_of(dataset: Any, name: str, count: int) -> npt.NDArray[np.float64] | None:
    """(count,) finite numbers of the header, or None."""
    try:
        values = np.atleast_1d(np.asarray(value_of(dataset, name), dtype=np.float64))
    except (TypeError, ValueError, AttributeError):
        return None
    return values if values.shape == (count,) and np.isfinite(values).all() else None


def holds_frames(header: Any) -> bool:
    """Whether a file's pictures are frames with places of their own: Enhanced CT and MR, tomosynthesis."""
    return int(header.get("NumberOfFrames") or 1) > 1 or any(name in header for name in FUNCTIONAL_GROUPS)
