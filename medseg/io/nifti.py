"""NIfTI-1, NIfTI-2 and Analyze files. The header's words are nibabel's business; sizes are checked before bytes.

Which place counts: the sform if it has a code, else the qform, else the bare voxel size (then left and right are in
doubt, and a note says so). Shear is kept. Units of metres and micrometres are converted to mm.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from medseg.core.atomic import atomic_path
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import GRID_TOLERANCE_VOXELS, Geometry
from medseg.io.layout import IN_DOUBT
from medseg.io.sizes import MOST_A_GZIP_EXPANDS, inflate, refuse_oversize, voxel_bytes
from medseg.io.voxels import channels_first, grid, native

Header = Any
"""A header of nibabel's, which has no types of its own."""

HEADER_BYTES = 544
MM_PER_UNIT = {"mm": 1.0, "unknown": 1.0, "meter": 1000.0, "micron": 0.001}
PRIVATE_FIELDS = ("descrip", "aux_file", "db_name", "intent_name")
"""Free text of the header, which may name a patient and never leaves the reader."""

_QUIET = logging.Logger("nibabel", level=logging.CRITICAL + 1)


@dataclass(frozen=True)
class _Opened:
    """A file whose header was understood: the header, where its voxels begin and what was noticed."""

    header: Header
    voxels: Path
    offset: int
    zipped: bool
    notes: tuple[str, ...]


def read_nifti(path: Path, channels: bool = False) -> Image:
    """Reads a volume: (C, *S) with slope and intercept applied, in the stored axis order.

    channels: whether a fourth axis holds the channels of one image; otherwise it is refused.
    Raises UserError for damaged, oversized, colour, complex and 5D files.
    """
    opened = _open(path)
    geometry, notes = _geometry(opened.header, path.name)
    shape, dtype = _shape(opened.header, path.name), _voxel_type(opened.header, path.name)
    data = _voxel_data(opened, voxel_bytes(shape, dtype.itemsize), path.name)
    array = np.frombuffer(data, dtype, count=int(np.prod(shape))).reshape(shape, order="F")
    array = _rescaled(native(array), opened.header)
    array = channels_first(array, geometry.ndim, path.name, channels)
    origin = {"files": (str(path),), "format": "nifti", "header": _clean_header(opened.header)}
    return Image(array, geometry, "", origin, (*opened.notes, *notes))


def read_nifti_geometry(path: Path) -> Geometry:
    """The grid alone; no voxels are read."""
    opened = _open(path)
    return _geometry(opened.header, path.name)[0]


def write_nifti(array: npt.NDArray[Any], geometry: Geometry, path: Path, header: bytes | None = None) -> Path:
    """Writes (*S) or (C, *S), whole or not at all; the same array gives the same bytes.

    header: the header of the image the array belongs to (`origin["header"]`): its sform, qform, codes and unit are
    kept to the bit.
    """
    if geometry.unit != "mm":
        raise UserError("a photograph has no place in a NIfTI file", path.name, "write .png or .tif instead")
    ours = _header_for(array, geometry, header)
    with atomic_path(path) as part, part.open("wb") as file:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=2, mtime=0) as stream:
                _put(stream, ours, array, geometry)
        else:
            _put(file, ours, array, geometry)
    return path


def _open(path: Path) -> _Opened:
    size = path.stat().st_size
    if size == 0:
        raise UserError("is empty (0 bytes)", path.name, "copy or export the file again")
    hdr, img = _pair(path)
    with hdr.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    start = _first_bytes(hdr, zipped)
    header, single = _header(start, hdr)
    notes = []
    if zipped != hdr.name.lower().endswith(".gz"):
        notes.append(f"{'a compressed' if zipped else 'an uncompressed'} file under the other's ending; read")
    if single:
        return _Opened(header, hdr, int(header.get_data_offset()), zipped, tuple(notes))
    if img is None:
        raise UserError("is a header without its .img file beside it", path.name, "copy both files")
    return _Opened(header, img, int(header.get_data_offset()), img.name.lower().endswith(".gz"), tuple(notes))


def _pair(path: Path) -> tuple[Path, Path | None]:
    """The file with the header, and the file with the voxels where that is another one."""
    name = path.name
    for ours, theirs in ((".img", ".hdr"), (".hdr", ".img"), (".IMG", ".HDR"), (".HDR", ".IMG")):
        for zipped in ("", ".gz"):
            if not name.endswith(ours + zipped):
                continue
            other = path.with_name(name[: -len(ours + zipped)] + theirs + zipped)
            if not other.exists():
                return path, None
            return (other, path) if ours.lower() == ".img" else (path, other)
    return path, None


def _first_bytes(path: Path, zipped: bool) -> bytes:
    with path.open("rb") as file:
        if not zipped:
            return file.read(HEADER_BYTES)
        with _unpacking(path.name), gzip.GzipFile(fileobj=file) as stream:
            return stream.read(HEADER_BYTES)


@contextmanager
def _unpacking(where: str) -> Iterator[None]:
    import zlib

    try:
        yield
    except (EOFError, OSError, zlib.error) as err:
        raise UserError(
            f"is damaged: its compressed data cannot be unpacked ({err})",
            where,
            "copy or export the file again",
        ) from err


def _header(start: bytes, path: Path) -> tuple[Header, bool]:
    """The header and whether the voxels follow in the same file."""
    from nibabel.analyze import AnalyzeHeader
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    if 540 in sizes:
        kind: Any = Nifti2Header
        single, known = start[4:8] == b"n+2\0", start[4:8] in (b"n+2\0", b"ni2\0")
    elif 348 in sizes:
        magic = start[344:348]
        single, known = magic == b"n+1\0", magic in (b"n+1\0", b"ni1\0")
        kind = Nifti1Header
        if not known and path.suffix.lower() == ".hdr":
            kind, known = AnalyzeHeader, True
    else:
        known, kind, single = False, None, False
    if not known or len(start) < (540 if 540 in sizes else 348):
        raise UserError(
            "is no NIfTI file (its header is damaged or of another kind)", path.name, "export it again"
        )
    try:
        # Without what follows: extensions hold free text and are nobody's business here.
        header = kind.from_fileobj(BytesIO(start[: 540 if 540 in sizes else 348]), check=False)
        _refuse_absent_spacing(header, path.name)
        header.check_fix(logger=_QUIET, error_level=40)
        if kind is AnalyzeHeader:
            header = _from_analyze(header)
    except (HeaderDataError, ValueError) as err:
        raise UserError(
            f"has a damaged header ({str(err).splitlines()[0]})", path.name, "copy or export the file again"
        ) from err
    return header, single


def _refuse_absent_spacing(header: Any, where: str) -> None:
    """nibabel would put 1 mm where the header has no spacing; where the spacing counts that is a guess."""
    axes = min(3, max(1, int(header["dim"][0])))
    spacing = [float(s) for s in header["pixdim"][1 : axes + 1]]
    forms = [int(header[code]) for code in ("sform_code", "qform_code") if code in header.keys()]  # noqa: SIM118
    if not any(forms) and min(spacing) <= 0:
        raise UserError(
            f"has no spacing (voxels of {spacing} mm in the header)",
            where,
            "write the true voxel size into the header",
        )


def _from_analyze(header: Any) -> Header:
    from nibabel.nifti1 import Nifti1Header

    new: Header = cast(Any, Nifti1Header)()
    new.set_data_dtype(header.get_data_dtype())
    new.set_data_shape(header.get_data_shape())
    new.set_zooms(header.get_zooms())
    new["vox_offset"] = header["vox_offset"]
    return new.as_byteswapped(header.endianness)


def _shape(header: Header, where: str) -> tuple[int, ...]:
    """The shape without trailing ones beyond the third axis."""
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3, 4) or min(shape, default=0) < 1:
        raise UserError(
            f"has {len(shape)} axes {shape}; an image has 2, 3 or, with channels, 4",
            where,
            "a vector or displacement field is no image; save the scalar volume you mean",
        )
    return shape


def _voxel_type(header: Header, where: str) -> np.dtype:
    dtype = header.get_data_dtype()
    if dtype.fields is not None:
        raise UserError(
            "has colour voxels (RGB)", where, "colour volumes are not supported; save it as grey values"
        )
    if dtype.kind == "c":
        raise UserError(
            "has complex voxels", where, "save the magnitude (or the part you mean) as real values"
        )
    if dtype.kind not in "iuf":
        raise UserError(f"has voxels of an unknown kind ({dtype})", where, "save it as integers or floats")
    return np.dtype(dtype)


def _voxel_data(opened: _Opened, size: int, where: str) -> bytes:
    present = opened.voxels.stat().st_size
    with opened.voxels.open("rb") as file:
        if not opened.zipped:
            refuse_oversize(size, max(0, present - opened.offset), where)
            file.seek(opened.offset)
            return file.read(size)
        refuse_oversize(size, present, where, MOST_A_GZIP_EXPANDS)
        with _unpacking(where), gzip.GzipFile(fileobj=file) as stream:
            if len(stream.read(opened.offset)) < opened.offset:
                raise UserError("is damaged: it ends inside the header", where, "export the file again")
            return inflate(stream, size, where)


def _rescaled(array: npt.NDArray[Any], header: Header) -> npt.NDArray[Any]:
    """value * slope + intercept; a slope of 0 or NaN means that nothing is scaled."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0:
        return array
    intercept = intercept if np.isfinite(intercept) else 0.0
    if slope == 1 and intercept == 0:
        return array
    # Single precision holds 16 bit values times a slope; wider values keep double.
    kind = np.float32 if array.dtype.itemsize <= 2 or array.dtype == np.float32 else np.float64
    scaled: npt.NDArray[Any] = array.astype(kind)
    np.multiply(scaled, kind(slope), out=scaled)
    np.add(scaled, kind(intercept), out=scaled)
    return scaled


def _geometry(header: Header, where: str) -> tuple[Geometry, tuple[str, ...]]:
    shape = _shape(header, where)[:3]
    sform, s_code = header.get_sform(coded=True)
    q_affine, q_code = _qform(header, where)
    notes: list[str] = []
    if s_code:
        affine = sform
    elif q_code and q_affine is not None:
        affine = q_affine
    else:
        affine = header.get_base_affine()
        notes.append(f"no orientation in the header: {IN_DOUBT} (taken as L, A, S)")
    unit = _unit(header, where)
    if unit != 1.0:
        affine = np.diag([unit, unit, unit, 1.0]) @ affine
    geometry = grid(shape, _planar(affine, len(shape)), where)
    if unit != 1.0:
        spacing = " x ".join(f"{s:.4g}" for s in geometry.spacing)
        notes.append(f"header in {header.get_xyzt_units()[0]}s, converted: voxels of {spacing} mm")
    if s_code and q_code and q_affine is not None:
        notes += _disagreement(
            geometry, Geometry(shape, _planar(np.diag([unit] * 3 + [1.0]) @ q_affine, len(shape)))
        )
    if len(shape) == 3 and not geometry.is_orthogonal:
        notes.append("the axes are not at right angles (shear); kept as they are")
    return geometry, tuple(notes)


def _qform(header: Header, where: str) -> tuple[npt.NDArray[np.float64] | None, int]:
    from nibabel.spatialimages import HeaderDataError

    try:
        affine, code = header.get_qform(coded=True)
    except (HeaderDataError, ValueError):
        if int(header["sform_code"]):
            return None, 0
        raise UserError(
            "has a qform that is no rotation", where, "the header is damaged; export the file again"
        ) from None
    return affine, int(code)


def _unit(header: Header, where: str) -> float:
    try:
        name = header.get_xyzt_units()[0]
    except KeyError:
        name = "unknown"
    if name not in MM_PER_UNIT:
        raise UserError(f"has the unit {name!r}", where, "write the header in mm")
    return MM_PER_UNIT[name]


def _planar(affine: npt.NDArray[np.float64], ndim: int) -> npt.NDArray[np.float64]:
    """For two axes the unused third column becomes the plane's normal, whatever the header says there."""
    if ndim == 3:
        return affine
    out = np.array(affine)
    normal = np.cross(out[:3, 0], out[:3, 1])
    length = np.linalg.norm(normal)
    out[:3, 2] = normal / length if length > 0 else (0, 0, 1)
    return out


def _disagreement(sform: Geometry, qform: Geometry) -> list[str]:
    distance = sform.distance_mm(qform)
    if distance <= GRID_TOLERANCE_VOXELS * min(sform.spacing):
        return []
    if sform.axis_codes != qform.axis_codes:
        return [
            f"sform says {sform.axis_codes} and qform says {qform.axis_codes} ({distance:.1f} mm apart): {IN_DOUBT};"
            " the sform was taken"
        ]
    return [f"sform and qform are {distance:.2f} mm apart; the sform was taken"]


def _clean_header(header: Header) -> bytes:
    """The header as bytes, little endian, without its free text."""
    clean = header.as_byteswapped("<")
    for field in set(PRIVATE_FIELDS) & set(clean.keys()):
        clean[field] = b""
    return bytes(clean.binaryblock)


def _header_for(array: npt.NDArray[Any], geometry: Geometry, source: bytes | None) -> Header:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    shape = geometry.shape if array.ndim == geometry.ndim else (*geometry.shape, array.shape[0])
    header = None if source is None else _kept_header(source, geometry)
    if header is None:
        header = cast(Any, Nifti2Header if max(shape) > 32767 else Nifti1Header)()
        header.set_data_shape(shape)
        header.set_xyzt_units("mm")
        header.set_sform(geometry.affine, code=1)
        header.set_qform(geometry.affine, code=1 if geometry.is_orthogonal else 0, strip_shears=True)
    header.set_data_shape(shape)
    header.set_data_dtype(array.dtype)
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["cal_min"] = header["cal_max"] = 0
    header["magic"] = b"n+2\0\r\n\x1a\n" if isinstance(header, Nifti2Header) else b"n+1\0"
    header["vox_offset"] = 544 if isinstance(header, Nifti2Header) else 352
    return header


def _kept_header(source: bytes, geometry: Geometry) -> Header | None:
    """The source's header if it describes this grid, without what it says about voxel values."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    kind: Any = Nifti2Header if len(source) >= 540 else Nifti1Header
    header = kind.from_fileobj(BytesIO(source), check=False)
    if not _geometry(header, "source")[0].same_grid(geometry):
        return None
    header["intent_code"] = 0
    header["dim_info"] = 0
    return header


def _put(
    stream: IO[bytes] | gzip.GzipFile, header: Header, array: npt.NDArray[Any], geometry: Geometry
) -> None:
    """Header, four bytes that say there is no extension, and voxels with the first axis running fastest."""
    out = array if array.ndim == geometry.ndim else np.moveaxis(array, 0, -1)
    stream.write(header.binaryblock)
    stream.write(b"\0\0\0\0")
    little = out.dtype.newbyteorder("<")
    # Slab by slab: a whole second copy of a big volume is never held.
    for index in range(out.shape[-1]):
        stream.write(out[..., index].astype(little, copy=False).tobytes(order="F"))
