"""Stored pixels -> physical values: HU for CT, slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.machine import cores
from medseg.io.dicom.decode import decoded_frames, decoding_failed
from medseg.io.dicom.decoder import name_syntax
from medseg.io.dicom.headers import PROJECTIONS, RLE, UNCOMPRESSED, Slice, Stored, damage_in_words
from medseg.io.layout import HU_IN_DOUBT
from medseg.io.sizes import refuse_oversize

if TYPE_CHECKING:
    from pydicom import Dataset

MOST_READERS = 8
AIR_HU = -1024
HIGHEST_HU = 30710
"""Top of the extended CT scale: nothing in a patient or of metal lies above."""

NO_HU = frozenset(("OD", "MGML", "Z_EFF", "ED", "EDW", "PCT"))
"""What RescaleType says of maps that are computed from a CT: densities, atomic numbers, shares."""


@dataclass(frozen=True, eq=False)
class Rescale:
    """stored * slope + intercept, and what lies outside the field of view.

    said: the header has both and no slope 0. unit: what the values are in by RescaleType, where it is one of NO_HU.
    """

    slope: float
    intercept: float
    padding: int | None
    padding_limit: int | None
    said: bool = True
    unit: str = ""

    @property
    def is_whole(self) -> bool:
        return self.slope.is_integer() and self.intercept.is_integer()


def read_pixels(slices: Sequence[Slice], what: str = "file") -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """(columns, rows, slices) of physical values in the order of `slices`, and notes.

    int16 where all values are whole and fit, else int32, else float32. Raises UserError naming the file by its
    number and instance where pixels cannot be decoded.
    """
    first = slices[0]
    size = first.rows * first.columns * len(slices) * 4
    refuse_oversize(size, size, "")
    if any(s.frame is not None for s in slices):
        return _read_frames(slices)
    with ThreadPoolExecutor(min(MOST_READERS, cores(), len(slices))) as readers:
        parts = list(
            readers.map(lambda job: _read_one(*job), [(n, len(slices), s) for n, s in enumerate(slices)])
        )
    return _assembled([p for p, _ in parts], [r for _, r in parts], first)


def _read_one(number: int, total: int, one: Slice) -> tuple[npt.NDArray[Any], Rescale]:
    from pydicom import dcmread

    where = f"file {number + 1} of {total} ({one.name})"
    if one.stored is not None:
        return _plain(one, one.stored, where), rescale_of(one.stored.rescale)
    with damage_in_words(where):
        dataset = dcmread(one.path, force=True)
        name_syntax(dataset)
        pixels = decoded(dataset, one.path, where)
        rescale = frame_rescales(dataset)[0]
    if pixels.shape != (one.rows, one.columns):
        raise UserError(
            f"pixel data of shape {pixels.shape}, the header says {(one.rows, one.columns)}", where
        )
    return pixels, rescale


def _plain(one: Slice, stored: Stored, where: str) -> npt.NDArray[Any]:
    """The pixels of an uncompressed picture, straight from where the header said they lie."""
    with one.path.open("rb") as file:
        pixels = np.fromfile(file, stored.kind, one.rows * one.columns, offset=stored.offset)
    if pixels.size != one.rows * one.columns:
        raise UserError("is damaged: its pixel data is cut short", where, "copy the files again")
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False).reshape(one.rows, one.columns)
    if stored.unused_bits:  # the sign, or zeros, take the place of bits that hold anything
        np.left_shift(pixels, stored.unused_bits, out=pixels)
        np.right_shift(pixels, stored.unused_bits, out=pixels)
    return pixels


def decoded(dataset: Dataset, path: Path, where: str) -> npt.NDArray[Any]:
    """The stored pixels of a data set read from `path`: (rows, columns), or (frames, rows, columns).

    Plain pixels and run lengths are unpacked here, all others by a process that may die of them. Raises UserError
    that names the transfer syntax where no decoder fits.
    """
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    if syntax not in UNCOMPRESSED and syntax != RLE:
        frames = int(dataset.get("NumberOfFrames") or 1)
        claimed = int(dataset.Rows) * int(dataset.Columns) * max(1, int(dataset.BitsAllocated) // 8)
        claimed *= int(dataset.get("SamplesPerPixel") or 1)
        found = list(decoded_frames(path, syntax, claimed, where, frames))
        if len(found) != frames:
            raise UserError(
                f"is damaged: {len(found)} of {frames} pictures are there", where, "copy the files again"
            )
        return found[0] if frames == 1 else np.stack(found)
    try:
        return dataset.pixel_array
    except Exception as err:  # damaged bytes fail in many ways
        raise decoding_failed(type(err).__name__, syntax, where) from err


def rescale_of(dataset: Any, groups: Any = None) -> Rescale:
    """Slope and intercept of a picture; 1 and 0 where the header has none."""
    table = dataset if groups is None else groups
    slope, intercept = (_number(table.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
    said = bool(slope) and intercept is not None
    padding, limit = (_number(dataset.get(n)) for n in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    return Rescale(
        slope or 1.0,
        intercept or 0.0,
        None if padding is None else int(padding),
        None if limit is None else int(limit),
        said,
        unit if (unit := str(table.get("RescaleType") or "").strip()) in NO_HU else "",
    )


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _read_frames(slices: Sequence[Slice]) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    from pydicom import dcmread

    files = {s.path for s in slices}
    if len(files) > 1:
        raise UserError(f"a volume spread over {len(files)} multi-frame files", "", "give one file at a time")
    with damage_in_words("multi-frame file"):
        dataset = dcmread(slices[0].path)
        rescales = frame_rescales(dataset)
    frames = np.atleast_3d(decoded(dataset, slices[0].path, "multi-frame file"))
    if frames.shape[:1] != (int(dataset.get("NumberOfFrames") or 1),):
        frames = frames.reshape(int(dataset.get("NumberOfFrames") or 1), slices[0].rows, slices[0].columns)
    order = [s.frame or 0 for s in slices]
    return _assembled([frames[n] for n in order], [rescales[n] for n in order], slices[0])


def frame_rescales(dataset: Dataset) -> list[Rescale]:
    """Slope and intercept of every frame: its own group, else the shared one, else the file's."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    out = []
    for groups in dataset.get("PerFrameFunctionalGroupsSequence") or [None]:
        for place in (groups, shared):
            found = None if place is None else place.get("PixelValueTransformationSequence")
            if found:
                out.append(rescale_of(dataset, found[0]))
                break
        else:
            out.append(rescale_of(dataset))
    return out


def _assembled(
    pictures: Sequence[npt.NDArray[Any]], rescales: Sequence[Rescale], first: Slice
) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Rescales every picture by its own values and stacks them."""
    kind = _type_for(pictures, rescales)
    stack = np.empty((len(pictures), *pictures[0].shape), dtype=kind)
    padded = 0
    for number, (pixels, rescale) in enumerate(zip(pictures, rescales)):
        if rescale.slope == 1.0 and rescale.intercept == 0.0:
            stack[number] = pixels
        elif (
            rescale.slope == 1.0 and kind == np.int16 and _is_short(pixels) and abs(rescale.intercept) < 2**15
        ):
            # Sums that fit 16 bits come out right modulo 2^16, whatever the sign of what was stored.
            np.add(pixels.view(np.int16), np.int16(rescale.intercept), out=stack[number])
        else:
            wide: Any = np.int32 if kind != np.float32 else np.float64
            stack[number] = pixels.astype(wide) * wide(rescale.slope) + wide(rescale.intercept)
        if first.modality == "CT":
            padded += _mask_padding(stack[number], pixels, rescale)
    notes = [f"{padded} voxels outside the field of view set to {AIR_HU} HU"] if padded else []
    if first.modality == "CT" and (silent := sum(not r.said for r in rescales)):
        notes.append(f"{silent} of {len(rescales)} slices do not say how to rescale them: {HU_IN_DOUBT}")
    if first.modality == "CT" and (units := {r.unit for r in rescales} - {""}):
        notes.append(f"the header says that the values are {', '.join(sorted(units))}, not HU: {HU_IN_DOUBT}")
    if len({(r.slope, r.intercept) for r in rescales}) > 1:
        notes.append("rescale values differ from slice to slice; each slice was rescaled by its own")
    return stack.transpose(2, 1, 0), tuple(notes)


def _is_short(pixels: npt.NDArray[Any]) -> bool:
    return pixels.dtype.kind in "iu" and pixels.dtype.itemsize == 2 and pixels.dtype.isnative


def _mask_padding(values: npt.NDArray[Any], pixels: npt.NDArray[Any], rescale: Rescale) -> int:
    """Sets padding that no tissue has to air, in place; returns how many voxels.

    Headers may give the value with the other sign than the pixels have (63536 for -2000): the bits count.
    """
    if rescale.padding is None:
        return 0
    limit = rescale.padding if rescale.padding_limit is None else rescale.padding_limit
    low, high = sorted(np.array([rescale.padding, limit]).astype(pixels.dtype))
    outside = (pixels >= low) & (pixels <= high) & ((values < AIR_HU) | (values > HIGHEST_HU))
    values[outside] = AIR_HU
    return int(np.count_nonzero(outside))


def _type_for(pictures: Sequence[npt.NDArray[Any]], rescales: Sequence[Rescale]) -> np.dtype:
    """int16 or int32 where every value is whole, float32 otherwise."""
    if not all(r.is_whole for r in rescales) or any(p.dtype.kind == "f" for p in pictures):
        return np.dtype(np.float32)
    ends = [float(p.min()) * r.slope + r.intercept for p, r in zip(pictures, rescales)]
    ends += [float(p.max()) * r.slope + r.intercept for p, r in zip(pictures, rescales)]
    low, high = min(ends), max(ends)
    if low >= -32768 and high <= 32767:
        return np.dtype(np.int16)
    return np.dtype(np.int32) if low >= -(2**31) and high < 2**31 else np.dtype(np.float32)


def read_projection(path: Path) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """A film (CR, DX, ...) as (rows, columns) with bright bones, whatever its photometric interpretation."""
    from pydicom import dcmread

    with damage_in_words("the picture"):
        dataset = dcmread(path, force=True)
        name_syntax(dataset)
        pixels = decoded(dataset, path, "the picture")
    if pixels.ndim != 2 or str(dataset.get("Modality", "")) not in PROJECTIONS:
        raise UserError(f"is no single grey picture (shape {pixels.shape})", "", "give one film a file")
    if str(dataset.PhotometricInterpretation) != "MONOCHROME1":
        return pixels, ()
    bits = int(dataset.BitsStored)
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if int(dataset.PixelRepresentation) else (0, 2**bits - 1)
    )
    return (low + high - pixels.astype(np.int32)).astype(pixels.dtype), ("MONOCHROME1: grey values inverted",)
