"""What is read from the header of one DICOM file (or one frame of it), and why a file is no slice of a volume.

Nothing here puts a header's text into a message: reasons are made of numbers and of words of ours.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.machine import ram_available_bytes
from medseg.io.dicom.tags import (
    DISTINGUISHING,
    RESCALE,
    floats_of,
    holds_frames,
    tags,
    text_of,
    value_of,
    whole,
)
from medseg.io.sizes import in_words

if TYPE_CHECKING:
    from pydicom import Dataset

UNCOMPRESSED = frozenset(
    ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
)
DEFLATED = "1.2.840.10008.1.2.1.99"
RLE = "1.2.840.10008.1.2.5"
SEGMENTATION_CLASSES = frozenset(("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"))
PROJECTIONS = frozenset(("CR", "DX", "MG", "RG", "PX", "IO"))
"""Modalities of films: one picture, no place in space."""

MOST_CODECS_EXPAND = 5000
META_BYTES = 1024
"""Where the transfer syntax stands in a file, if anywhere."""

NOT_SLICES = {
    "SEG": "a segmentation, not an image",
    "RTDOSE": "a dose, not an image",
    "SM": "a slide made of tiles, not slices",
    "ANN": "annotations, not an image",
    "OT": "a secondary picture without a place in space",
    "SR": "a report without pixels",
    "PR": "a presentation state without pixels",
    "KO": "a key object note without pixels",
    "RTSTRUCT": "contours, not an image",
    "RTPLAN": "a plan, not an image",
    "REG": "a registration, not an image",
    "DOC": "a document, not an image",
}

NATIVE = {"1.2.840.10008.1.2": "<", "1.2.840.10008.1.2.1": "<", "1.2.840.10008.1.2.2": ">"}
"""Transfer syntaxes whose pixels lie in the file as they are, and their byte order."""


@dataclass(frozen=True)
class Stored:
    """Where the plain pixels of a file of one picture lie, so that they are read without parsing the file again.

    offset: bytes from the start of the file. kind: numpy's name of the stored type. unused_bits: highest bits that
    do not belong to the value. rescale: slope, intercept, padding value and its limit, as the header has them.
    """

    offset: int
    kind: str
    unused_bits: int
    rescale: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Slice:
    """One picture with its place: a file, or a frame of a multi-frame file.

    position, along_columns, along_rows: LPS mm; `along_columns` points from column to column (the first three
    numbers of ImageOrientationPatient). row_spacing, column_spacing: mm between rows, between columns.
    values: what may tell pictures of one place apart, as text. frame: None for a file of one picture.
    stored: where plain pixels lie; None for frames and compressed pictures.
    """

    path: Path
    frame: int | None
    sop_class: str
    sop_uid: str
    series_uid: str
    study_uid: str
    patient: str
    frame_of_reference: str
    modality: str
    description: str
    image_type: tuple[str, ...]
    kernel: str
    rows: int
    columns: int
    position: npt.NDArray[np.float64]
    along_columns: npt.NDArray[np.float64]
    along_rows: npt.NDArray[np.float64]
    row_spacing: float
    column_spacing: float
    thickness: float | None
    instance: int | None
    series_number: int | None
    values: Mapping[str, str]
    stored: Stored | None = None

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """The unit vector through the picture: rows cross columns."""
        return np.cross(self.along_columns, self.along_rows)

    @property
    def name(self) -> str:
        """What a message may call this picture."""
        frame = "" if self.frame is None else f"frame {self.frame + 1} of "
        return f"{frame}instance {'?' if self.instance is None else self.instance}"


@dataclass(frozen=True)
class LeftOut:
    """A file that is no slice of a volume, and why; the series it belongs to where that is known."""

    file: Path
    reason: str
    series_uid: str = ""
    modality: str = ""
    study_uid: str = ""
    patient_key: str = ""


class NotASlice(Exception):
    """Why a file is left out, with what is known of it."""

    def __init__(self, reason: str, dataset: Dataset | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.dataset = dataset

    def left_out(self, path: Path) -> LeftOut:
        found = self.dataset
        if found is None:
            return LeftOut(path, self.reason)
        return LeftOut(
            path, self.reason, text_of(found, "SeriesInstanceUID"), modality_of(found),
            text_of(found, "StudyInstanceUID"), patient_key(found),
        )  # fmt: skip


@contextmanager
def damage_in_words(where: str) -> Iterator[None]:
    """Turns what a DICOM library raises over damaged bytes into a sentence; errors in words pass."""
    try:
        yield
    except (UserError, NotASlice, MemoryError):
        raise
    except Exception as err:  # damaged bytes fail in many ways
        raise UserError(
            "is damaged: its header cannot be understood", where, "copy or export the file again"
        ) from err


def read_slices(path: Path) -> list[Slice]:
    """The pictures of one file. Raises NotASlice with a reason free of header texts."""
    header = read_header(path)
    try:
        return _slices(path, header)
    except NotASlice:
        raise
    except Exception as err:  # values are decoded when they are looked at, and damaged ones fail in many ways
        raise NotASlice("damaged header") from err


def _slices(path: Path, header: Dataset) -> list[Slice]:
    _refuse_what_is_no_image(header)
    _refuse_damage(header, path)
    if holds_frames(header):
        from medseg.io.dicom.frames import frame_slices

        return frame_slices(path, header)
    return [one_slice(path, header, header, None)]


def read_header(path: Path) -> Dataset:
    """The tags of TAGS (all tags of a multi-frame file) and, as `.pixel_bytes`, how much pixel data follows.

    Raises NotASlice for files that are not DICOM.
    """
    try:
        size = path.stat().st_size
        if size == 0:
            raise NotASlice("empty file (0 bytes)")
        refuse_bomb(path)
        with path.open("rb") as file:
            header = _parse(file, list(tags().values()))
            present = _pixel_bytes(file, header, size)
        if (
            int(header.get("NumberOfFrames") or 1) > 1
            or str(header.get("SOPClassUID", "")) in SEGMENTATION_CLASSES
        ):
            with path.open("rb") as file:
                header = _parse(file, None)
        header.pixel_bytes = present
        return header
    except NotASlice:
        raise
    except OSError as err:
        raise NotASlice(f"cannot be read ({err.strerror or 'damaged header'})") from err
    except Exception as err:  # pydicom meets damaged bytes with errors of many kinds
        raise NotASlice("damaged header") from err


def refuse_bomb(path: Path) -> None:
    """Raises NotASlice for a deflated data set that unpacks to more than the memory takes: it is unpacked whole."""
    with path.open("rb") as file:
        start = file.read(META_BYTES)
        if start[128:132] != b"DICM" or DEFLATED.encode() not in start:
            return
        from pydicom.filereader import read_file_meta_info

        meta = read_file_meta_info(path)
        if str(meta.get("TransferSyntaxUID", "")) != DEFLATED:
            return
        file.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
        most, unpacked, stream = ram_available_bytes() // 4, 0, zlib.decompressobj(-zlib.MAX_WBITS)
        packed = file.read(2**16)
        while packed and not stream.eof and unpacked <= most:
            unpacked += len(stream.decompress(packed, 2**20))
            packed = stream.unconsumed_tail or file.read(2**16)
    if unpacked > most:
        raise NotASlice(
            f"unpacks to more than {in_words(most)}, the file has {in_words(path.stat().st_size)}"
        )


def _parse(file: IO[bytes], tags: list[Any] | None) -> Dataset:
    """Reads up to the pixels. A file without the DICM mark is taken if it begins like a bare data set."""
    from pydicom import dcmread

    start = file.read(132)
    marked = start[128:132] == b"DICM"
    if not marked and start[:2] not in (b"\x08\x00", b"\x02\x00"):
        raise NotASlice("not a DICOM file")
    file.seek(0)
    header = dcmread(file, stop_before_pixels=True, force=not marked, specific_tags=tags)
    if not marked and "SOPClassUID" not in header:
        raise NotASlice("not a DICOM file")
    return header


def _pixel_bytes(file: IO[bytes], header: Dataset, size: int) -> dict[str, int] | None:
    """What follows the header: {declared, present} bytes of pixel data (declared -1: in fragments), or None."""
    syntax = str(getattr(header.file_meta, "TransferSyntaxUID", "")) if hasattr(header, "file_meta") else ""
    if syntax == DEFLATED:
        return {"declared": -1, "present": size, "floats": 0}
    at = file.tell()
    head = file.read(12)
    order = "little" if header.original_encoding[1] is not False else "big"
    if len(head) < 8:
        return None
    group, element = int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order)  # type: ignore[arg-type]
    if group != 0x7FE0 or element not in (0x0010, 0x0008, 0x0009):
        return None
    implicit = bool(header.original_encoding[0])
    length = int.from_bytes(head[4:8] if implicit else head[8:12], order)  # type: ignore[arg-type]
    start = at + (8 if implicit else 12)
    declared = -1 if length == 0xFFFFFFFF else length
    return {"declared": declared, "present": size - start, "floats": int(element != 0x0010), "offset": start}


def _refuse_what_is_no_image(header: Dataset) -> None:
    modality = modality_of(header)
    known = header.pixel_bytes
    if modality in NOT_SLICES and (modality != "OT" or known is None or "ImagePositionPatient" not in header):
        raise NotASlice(NOT_SLICES[modality], header)
    if known is not None and known["floats"]:
        raise NotASlice("a parametric map of real numbers, not an image", header)
    if known is None or known["declared"] == 0:
        raise NotASlice("no pixels", header)
    for field in ("Rows", "Columns", "BitsAllocated"):
        if not header.get(field):
            raise NotASlice(f"{field} is missing", header)
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise NotASlice(f"a colour picture ({int(header.SamplesPerPixel)} samples a pixel)", header)
    if text_of(header, "PhotometricInterpretation") == "PALETTE COLOR":
        raise NotASlice("a colour picture (palette)", header)


def _refuse_damage(header: Dataset, path: Path) -> None:
    """Compares what the header claims with the bytes that are there."""
    known = header.pixel_bytes
    frames = int(header.get("NumberOfFrames") or 1)
    claimed = math.ceil(int(header.Rows) * int(header.Columns) * frames * int(header.BitsAllocated) / 8)
    syntax = str(getattr(header.file_meta, "TransferSyntaxUID", ""))
    if not syntax and path.suffix == "":
        syntax = "1.2.840.10008.1.2"
    if syntax in UNCOMPRESSED or syntax == RLE:
        _refuse_shifted(header)
    if syntax in UNCOMPRESSED and syntax != DEFLATED:
        if known["present"] < max(claimed, known["declared"]):
            missing = max(claimed, known["declared"]) - known["present"]
            raise NotASlice(f"pixel data is {in_words(missing)} short", header)
        if 0 <= known["declared"] < claimed:
            raise NotASlice(f"pixel data is {in_words(claimed - known['declared'])} short", header)
    elif claimed > known["present"] * MOST_CODECS_EXPAND + 2**20:
        raise NotASlice(
            f"claims {in_words(claimed)} of pixels, the file has {in_words(known['present'])}", header
        )


def _refuse_shifted(header: Dataset) -> None:
    """Values that do not begin at the lowest bit: DICOM allowed them once, and some headers only say so."""
    high, bits = whole(header, "HighBit"), whole(header, "BitsStored")
    if high is not None and bits is not None and high != bits - 1:
        raise NotASlice(
            f"its header says that {bits} bits end at bit {high}, so where its values lie is not known",
            header,
        )


def one_slice(path: Path, header: Dataset, place: Any, frame: int | None) -> Slice:
    """The facts of one picture.

    header: the file's data set. place: what holds position, orientation, spacing and the distinguishing values
    (the file's data set, or those of a frame gathered in one).
    """
    position, orientation = (
        floats_of(place, "ImagePositionPatient", 3),
        floats_of(place, "ImageOrientationPatient", 6),
    )
    if position is None or orientation is None:
        raise NotASlice("no position and orientation in space", header)
    spacing = floats_of(place, "PixelSpacing", 2)
    if spacing is None or min(spacing) <= 0:
        raise NotASlice(
            "no pixel spacing" if spacing is None else f"pixel spacing {[float(s) for s in spacing]} mm",
            header,
        )
    along_columns, along_rows = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(along_columns), np.linalg.norm(along_rows)
    if min(lengths) < 0.99 or max(lengths) > 1.01 or abs(along_columns @ along_rows) > 0.01:
        raise NotASlice("orientation that is no pair of unit vectors at right angles", header)
    thickness = floats_of(place, "SliceThickness", 1)
    values = {
        name: value for name in DISTINGUISHING if (value := text_of(place, name) or text_of(header, name))
    }
    return Slice(
        path, frame, _name_of(header, "SOPClassUID"), _name_of(header, "SOPInstanceUID"),
        text_of(header, "SeriesInstanceUID"), text_of(header, "StudyInstanceUID"), patient_key(header),
        text_of(header, "FrameOfReferenceUID"), modality_of(header), text_of(header, "SeriesDescription"),
        tuple(text_of(header, "ImageType").split("\\")), values.get("ConvolutionKernel", ""),
        int(header.Rows), int(header.Columns), position, along_columns / lengths[0], along_rows / lengths[1],
        float(spacing[0]), float(spacing[1]), None if thickness is None else float(thickness[0]),
        whole(header, "InstanceNumber"), whole(header, "SeriesNumber"), values,
        _stored(header, place) if frame is None else None,
    )  # fmt: skip


def _name_of(header: Dataset, name: str) -> str:
    """A UID of the file; tools that take names away may leave it in the file's preamble."""
    return text_of(header, name) or str(getattr(header, "file_meta", {}).get(f"MediaStorage{name}", ""))


def _stored(header: Dataset, place: Any) -> Stored | None:
    """Where the pixels lie; None where the file has to be parsed again to know. header, place: as for `one_slice`."""
    known = header.pixel_bytes
    order = NATIVE.get(str(getattr(header.file_meta, "TransferSyntaxUID", "")))
    allocated, bits = int(header.BitsAllocated), whole(header, "BitsStored")
    sign = whole(header, "PixelRepresentation")
    plain = order is not None and allocated in (8, 16, 32) and not (allocated == 8 and order == ">")
    if not plain or bits is None or not 0 < bits <= allocated or sign not in (0, 1) or known["declared"] < 0:
        return None
    rescale = {n: value_of(header if value_of(place, n) is None else place, n) for n in RESCALE}
    return Stored(
        known["offset"], f"{order}{'i' if sign else 'u'}{allocated // 8}", allocated - bits, rescale
    )


def modality_of(header: Dataset) -> str:
    """The modality where it is a code of DICOM's kind, else "": the field may hold anything."""
    text = text_of(header, "Modality")
    return text if text in NOT_SLICES or re.fullmatch("[A-Z]{2,3}", text) else ""


def patient_key(header: Dataset) -> str:
    """Whose picture it is: PatientID and its issuer, else the name. Private: hash it before it goes anywhere."""
    parts = [text_of(header, name) for name in ("PatientID", "IssuerOfPatientID")]
    return "\0".join(parts) if parts[0] else text_of(header, "PatientName")
