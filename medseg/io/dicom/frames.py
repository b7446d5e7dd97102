"""Multi-frame files (Enhanced CT and MR): every frame as a picture with a place of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.io.dicom.headers import NotASlice, Slice, one_slice
from medseg.io.dicom.tags import DISTINGUISHING

if TYPE_CHECKING:
    from pydicom import Dataset

GROUPS = (
    "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "FrameContentSequence",
    "MREchoSequence", "MRDiffusionSequence", "MRImageFrameTypeSequence", "CTImageFrameTypeSequence",
    "CardiacSynchronizationSequence", "CTReconstructionSequence",
)  # fmt: skip
"""Functional groups whose values place a frame or tell it from another one of the same place."""

RENAMED = {
    "EffectiveEchoTime": "EchoTime",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameReferenceDateTime": "FrameReferenceTime",
}


def frame_slices(path: Path, header: Dataset) -> list[Slice]:
    """The frames of a multi-frame file. Raises NotASlice where they have no place."""
    frames = int(header.get("NumberOfFrames") or 1)
    own = header.get("PerFrameFunctionalGroupsSequence")
    if not own:
        raise NotASlice(f"{frames} frames without a position in space", header)
    if len(own) != frames:
        raise NotASlice(f"says {frames} frames, describes {len(own)}", header)
    shared = header.get("SharedFunctionalGroupsSequence") or [None]
    base = frame_values(shared[0])
    return [
        one_slice(path, header, {**base, **frame_values(item)}, number) for number, item in enumerate(own)
    ]


def frame_values(groups: Any) -> dict[str, Any]:
    """The functional groups of one frame as a flat table of values."""
    values: dict[str, Any] = {}
    if groups is None:
        return values
    for name in GROUPS:
        for item in groups.get(name) or ():
            for element in item:
                keyword = RENAMED.get(element.keyword, element.keyword)
                # Times of a frame differ from slice to slice and tell nothing apart.
                if keyword and element.VR != "SQ" and (keyword in DISTINGUISHING or keyword in _PLACES):
                    values[keyword] = element.value
    return values


_PLACES = frozenset(
    (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "SpacingBetweenSlices",
    )
)
