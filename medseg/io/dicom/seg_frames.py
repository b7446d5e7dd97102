"""The frames of a segmentation: their pixels, and for each frame where it lies, what it shows, what it is from.

In a binary segmentation a frame exists for every source picture in which a segment has pixels, in a label map for
every source picture in which any has. Work is done picture by picture, so that a
hundred segments cost little more than one and nothing of size segments x volume is held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.io.dicom.headers import Slice
from medseg.io.dicom.write_series import decimals

if TYPE_CHECKING:
    from pydicom import Dataset

MOST_BYTES = 2**32 - 2
"""What the length field of uncompressed pixel data can say."""

OF_A_FRAME = (
    "DerivationImageSequence", "FrameContentSequence", "PlanePositionSequence", "SegmentIdentificationSequence"
)  # fmt: skip
"""Functional groups that every frame gets of its own."""


def template_pixels(shape: tuple[int, ...], count: int) -> npt.NDArray[Any]:
    """Pixels with one voxel of each segment, all in the first picture: what the header is made from."""
    pixels = np.zeros(shape, dtype=np.uint8 if count < 256 else np.uint16)
    if count > pixels[0].size:
        raise UserError(f"{count} classes on pictures of {pixels[0].size} pixels", "", "write nifti instead")
    pixels[0].flat[:count] = np.arange(1, count + 1)
    return pixels


def fill(made: Dataset, masks: npt.NDArray[Any], slices: Sequence[Slice], count: int) -> None:
    """Replaces the frames of `made` by those of `masks`.

    masks: (slices, rows, columns) of 1..count, or (slices, rows, columns, count) of 0 and 1.
    slices: the source pictures in the same order.
    """
    packed: dict[tuple[int, int], bytes] = {}
    for place, picture in enumerate(masks):
        for segment, mask in shown_in(picture, count):
            packed[segment, place] = np.packbits(mask.ravel(), bitorder="little").tobytes()
    frames = sorted(packed)
    size = masks.shape[1] * masks.shape[2]
    if len(frames) * size / 8 > MOST_BYTES:
        raise UserError(
            f"{len(frames)} frames do not fit one DICOM segmentation",
            "",
            "write nifti, or predict fewer classes",
        )
    describe_frames(made, frames, slices)
    made.PixelData = _joined([packed[frame] for frame in frames], size)
    made["PixelData"].VR = "OB"
    made.SegmentsOverlap = "YES" if masks.ndim == 4 else "NO"


def fill_label_map(made: Dataset, masks: npt.NDArray[Any], slices: Sequence[Slice]) -> None:
    """Replaces the frames of a label map by the pictures of `masks` (slices, rows, columns) that are not empty."""
    used = [place for place, picture in enumerate(masks) if picture.any()]
    describe_frames(made, [(0, place) for place in used], slices)
    put_encoded(made, [encoded(masks[place]) for place in used])


def encoded(picture: npt.NDArray[Any]) -> bytes:
    """One picture (rows, columns) of 8 or 16 bits, compressed without loss (JPEG-LS)."""
    import jpeg_ls

    return bytes(jpeg_ls.encode_array(np.ascontiguousarray(picture)))


def put_encoded(made: Dataset, frames: Sequence[bytes]) -> None:
    """Puts compressed frames into a data set."""
    from pydicom.encaps import encapsulate

    made.PixelData = encapsulate(list(frames))
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True


def shown_in(picture: npt.NDArray[Any], count: int) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """The segments that have pixels in a picture, from 1, and their masks."""
    if picture.ndim == 3:
        for number in range(count):
            if picture[..., number].any():
                yield number + 1, picture[..., number] > 0
        return
    for value in np.flatnonzero(np.bincount(picture.ravel(), minlength=count + 1)):
        if value:
            yield int(value), picture == value


def _joined(frames: Sequence[bytes], size: int) -> bytes:
    """Frames of packed bits one after the other; where a frame does not end on a byte the next begins inside it."""
    if size % 8 == 0:
        data = b"".join(frames)
    else:
        # Eight frames together end on a byte.
        parts = []
        for start in range(0, len(frames), 8):
            bits = [
                np.unpackbits(np.frombuffer(f, np.uint8), bitorder="little")[:size]
                for f in frames[start : start + 8]
            ]
            parts.append(np.packbits(np.concatenate(bits), bitorder="little").tobytes())
        data = b"".join(parts)
    return data + b"\0" * (len(data) % 2)


def describe_frames(made: Dataset, frames: Sequence[tuple[int, int]], slices: Sequence[Slice]) -> None:
    """One item a frame (segment, place): its indices, its place, its segment, and the picture it was made from.

    segment 0 means all: the frame of a label map.
    """
    from pydicom import Dataset
    from pydicom.sequence import Sequence as Items

    pattern = made.PerFrameFunctionalGroupsSequence[0]
    for name in OF_A_FRAME:  # of a single frame the library calls them shared, and no group may stand in both
        if name in made.SharedFunctionalGroupsSequence[0]:
            del made.SharedFunctionalGroupsSequence[0][name]
    used = sorted({place for _, place in frames})
    ranks = {place: number + 1 for number, place in enumerate(used)}
    where, source = {}, {}
    for place in used:
        position = Dataset()
        position.ImagePositionPatient = decimals(slices[place].position)
        where[place] = Items([position])
        source[place] = Items([_derived(pattern.DerivationImageSequence[0], slices[place])])
    which = {}
    for segment in sorted({segment for segment, _ in frames}):
        item = Dataset()
        item.ReferencedSegmentNumber = segment
        which[segment] = Items([item])
    items = []
    for segment, place in frames:
        content, item = Dataset(), Dataset()
        content.DimensionIndexValues = [segment, ranks[place]] if segment else [ranks[place]]
        item.DerivationImageSequence = source[place]
        item.FrameContentSequence = Items([content])
        item.PlanePositionSequence = where[place]
        if segment:
            item.SegmentIdentificationSequence = which[segment]
        items.append(item)
    made.PerFrameFunctionalGroupsSequence = Items(items)
    made.NumberOfFrames = len(frames)


def _derived(pattern: Dataset, one: Slice) -> Dataset:
    """A derivation item that names one source picture, or one frame of a multi-frame file."""
    item = deepcopy(pattern)
    source = item.SourceImageSequence[0]
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = one.sop_class, one.sop_uid
    if one.frame is not None:
        source.ReferencedFrameNumber = one.frame + 1
    return item
