"""NRRD and MetaImage files. The headers are short texts and are read here, so that a cut file is noticed, the size
is known before memory is taken, no header can point outside its folder, and any name of a file will do.

Both formats speak LPS unless an NRRD says otherwise; the affine is turned into RAS+ on reading and back on writing.
"""

from __future__ import annotations

import bz2
import gzip
import zlib
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from medseg.core.atomic import atomic_path
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.io import metaimage, nrrd
from medseg.io.layout import Layout
from medseg.io.names import suffix_of
from medseg.io.sizes import MOST_A_GZIP_EXPANDS, Readable, inflate, refuse_oversize, voxel_bytes
from medseg.io.voxels import channels_first, native


def read_itk(path: Path, channels: bool = False) -> Image:
    """Reads NRRD, MHA or MHD: (C, *S) in the stored axis order.

    channels: whether several values a voxel are channels of one image; otherwise they are refused.
    Raises UserError for damaged files, absent spacing, and data files outside the header's folder.
    """
    layout = _layout_of(path)
    data = _voxel_data(layout, path.name)
    array = native(_array(data, layout, path.name))
    if layout.value_axis is not None:
        array = np.moveaxis(array, layout.value_axis, -1)
    array = channels_first(array, layout.geometry.ndim, path.name, channels, "values a voxel")
    origin = {
        "files": tuple(dict.fromkeys((str(path), str(layout.file)))),
        "format": suffix_of(path).lstrip("."),
    }
    return Image(array, layout.geometry, "", origin, layout.notes)


def read_itk_geometry(path: Path) -> Geometry:
    """The grid alone; no voxels are read."""
    return _layout_of(path).geometry


def companions(path: Path) -> tuple[Path, ...]:
    """The header file and, where the voxels lie in another one, that too."""
    return tuple(dict.fromkeys((path, _layout_of(path).file)))


def write_itk(array: npt.NDArray[Any], geometry: Geometry, path: Path) -> Path:
    """Writes (*S) or (C, *S) as .nrrd (gzip) or .mha (zlib), whole or not at all."""
    if geometry.unit != "mm":
        raise UserError(
            "a photograph has no place in a volume's file", path.name, "write .png or .tif instead"
        )
    several = array.ndim > geometry.ndim
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    # Values of a voxel run fastest in both formats, then the first axis.
    data = little.tobytes(order="F")
    with atomic_path(path) as part, part.open("wb") as file:
        if suffix_of(path) == ".nrrd":
            file.write(nrrd.header_text(array, geometry, several).encode())
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=2, mtime=0) as stream:
                stream.write(data)
        else:
            packed = zlib.compress(data, 2)
            file.write(metaimage.header_text(array, geometry, several, len(packed)).encode())
            file.write(packed)
    return path


def _voxel_data(layout: Layout, where: str) -> bytes:
    size = voxel_bytes(layout.stored, layout.dtype.itemsize)
    if not layout.file.is_file():
        raise UserError(f"names a data file {layout.file.name} that is missing", where, "copy both files")
    present = layout.file.stat().st_size
    with layout.file.open("rb") as file:
        if layout.encoding == "raw":
            start = present - size if layout.skip < 0 else layout.skip
            refuse_oversize(size, max(0, present - max(0, start)), where)
            file.seek(start)
            return file.read(size)
        if layout.encoding == "text":
            return b""
        file.seek(max(0, layout.skip))
        expands = MOST_A_GZIP_EXPANDS if layout.encoding != "bzip2" else 100_000
        refuse_oversize(size, present, where, expands)
        return inflate(_stream(layout.encoding, file), size, where)


def _stream(encoding: str, file: IO[bytes]) -> Readable:
    if encoding == "bzip2":
        return bz2.BZ2File(file)
    if encoding == "gzip":
        return gzip.GzipFile(fileobj=file)
    return _Zlib(file)


class _Zlib:
    """A zlib stream that is read in parts, so that what it unpacks to is bounded by what is asked for."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._unpacker, self._ended = file, zlib.decompressobj(), False

    def read(self, size: int, /) -> bytes:
        out = BytesIO()
        while (missing := size - out.tell()) > 0 and not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._file.read(2**20)
            if not packed:
                raise EOFError("it ends before its end mark")
            out.write(self._unpacker.decompress(packed, missing))
        return out.getvalue()


def _array(data: bytes, layout: Layout, where: str) -> npt.NDArray[Any]:
    if layout.encoding != "text":
        return np.frombuffer(data, layout.dtype).reshape(layout.stored, order="F")
    text = layout.file.read_bytes()[layout.skip :].split()
    if len(text) < np.prod(layout.stored):
        raise UserError(f"is damaged: {len(text)} of {np.prod(layout.stored)} values are there", where)
    values = np.array(text[: int(np.prod(layout.stored))], dtype=np.float64).astype(layout.dtype)
    return values.reshape(layout.stored, order="F")


def _layout_of(path: Path) -> Layout:
    with path.open("rb") as file:
        start = file.read(nrrd.LONGEST_HEADER_BYTES)
    if not start:
        raise UserError("is empty (0 bytes)", path.name, "copy or export the file again")
    kind = nrrd if start.startswith(b"NRRD") else metaimage
    try:
        return kind.read_header(start, path)
    except (KeyError, ValueError, IndexError) as err:
        reason = f"the field {err} is missing" if isinstance(err, KeyError) else str(err)
        raise UserError(f"has a damaged header ({reason})", path.name, "export the file again") from err
