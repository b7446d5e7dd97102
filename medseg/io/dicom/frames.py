"""Enhanced files (CT, MR): every frame as a picture with a place of its own, which functional groups hold.

A file of one frame is a picture like any other; many such files may form a volume.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.io.dicom.headers import NotASlice, Slice, one_slice
from medseg.io.dicom.tags import DISTINGUISHING, RESCALE

if TYPE_CHECKING:
    from pydicom import Dataset

GROUPS = (
    "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence", "FrameContentSequence",
    "MREchoSequence", "MRDiffusionSequence", "MRImageFrameTypeSequence", "CTImageFrameTypeSequence",
    "CardiacSynchronizationSequence", "CTReconstructionSequence", "PixelValueTransformationSequence",
)  # fmt: skip
"""Functional groups whose values place a frame, tell it from another one of the same place, or rescale it."""

RENAMED = {
    "EffectiveEchoTime": "EchoTime",
    "NominalCardiacTriggerDelayTime": "TriggerTime",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameReferenceDateTime": "FrameReferenceTime",
}


def frame_slices(path: Path, header: Dataset) -> list[Slice]:
    """The frames of a file. Raises NotASlice where they have no place."""
    frames = int(header.get("NumberOfFrames") or 1)
    own = header.get("PerFrameFunctionalGroupsSequence") or ([None] if frames == 1 else [])
    if not own:
        raise NotASlice(f"{frames} frames without a position in space", header)
    if len(own) != frames:
        raise NotASlice(f"says {frames} frames, describes {len(own)}", header)
    shared = header.get("SharedFunctionalGroupsSequence") or [None]
    base = frame_values(shared[0])
    if frames == 1:
        place = {**base, **frame_values(own[0])}
        # Older files carry groups beside a place in the usual fields.
        return [one_slice(path, header, place if "ImagePositionPatient" in place else header, None)]
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
                if keyword and element.VR != "SQ" and (keyword in DISTINGUISHING or keyword in _KEPT):
                    values[keyword] = element.value
    return values


_KEPT = frozenset(
    (
        *RESCALE,
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "SpacingBetweenSlices",
    )
)
