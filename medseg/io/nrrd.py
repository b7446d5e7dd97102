"""The text header of NRRD files (format definition of the Teem library), read and written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.io.layout import IN_DOUBT, Layout, affine_of, beside, lps_affine, numbers_text
from medseg.io.voxels import grid

LONGEST_HEADER_BYTES = 2**20
SPACES = {
    "left-posterior-superior": (-1.0, -1.0, 1.0),
    "lps": (-1.0, -1.0, 1.0),
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "ras": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "las": (-1.0, 1.0, 1.0),
}
TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "int64", "int64_t"), "i8"),
    **dict.fromkeys(
        ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"
    ),
    "float": "f4",
    "double": "f8",
}
TYPE_NAMES = {"i1": "int8", "u1": "uint8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32",
                   "i8": "int64", "u8": "uint64", "f4": "float", "f8": "double"}  # fmt: skip


def read_header(start: bytes, path: Path) -> Layout:
    """The layout that the first bytes of an NRRD file describe."""
    lines, end = _lines(start, path)
    fields = {
        key.strip().lower(): value.strip() for key, _, value in (x.partition(":") for x in lines if ":" in x)
    }
    dimension = int(fields["dimension"])
    stored = tuple(int(n) for n in fields["sizes"].split())
    if len(stored) != dimension or min(stored) < 1:
        raise ValueError(f"dimension {dimension} but sizes {fields['sizes']}")
    directions, value_axis, notes = _directions(fields, dimension, path.name)
    space_shape = tuple(n for axis, n in enumerate(stored) if axis != value_axis)
    kind = fields["type"].lower()
    if kind not in TYPES:
        raise UserError(f"has voxels of type {kind!r}", path.name, "save it as integers or floats")
    order = ">" if fields.get("endian", "little").lower() == "big" else "<"
    name = fields.get("data file", fields.get("datafile"))
    if name and (name.upper().startswith("LIST") or "%" in name):
        raise UserError("is spread over several data files", path.name, "save it as one .nrrd file")
    if int(fields.get("line skip", fields.get("lineskip", 0))):
        raise UserError("uses a line skip", path.name, "save it as one .nrrd file")
    skip = int(fields.get("byte skip", fields.get("byteskip", 0)))
    return Layout(
        grid(space_shape, directions, path.name), stored, value_axis, np.dtype(order + TYPES[kind]),
        _encoding(fields["encoding"], path.name), beside(path, name) if name else path,
        skip if name or skip < 0 else end + skip, notes,
    )  # fmt: skip


def _lines(start: bytes, path: Path) -> tuple[list[str], int]:
    """The header's lines without comments and key/value pairs, and where the data begin."""
    marks = [
        (at, length) for mark, length in ((b"\n\n", 2), (b"\r\n\r\n", 4)) if (at := start.find(mark)) >= 0
    ]
    if not marks:
        if len(start) >= LONGEST_HEADER_BYTES:
            raise ValueError("no end within 1 MB")
        return start.decode("utf-8", "replace").splitlines(), len(start)
    at, length = min(marks)
    lines = start[:at].decode("utf-8", "replace").splitlines()
    return [line for line in lines if not line.startswith("#") and ":=" not in line], at + length


def _encoding(name: str, where: str) -> str:
    known = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2",
             "ascii": "text", "text": "text", "txt": "text"}  # fmt: skip
    if name.lower() not in known:
        raise UserError(f"has the encoding {name!r}", where, "save it with encoding gzip or raw")
    return known[name.lower()]


def _directions(
    fields: Mapping[str, str], dimension: int, where: str
) -> tuple[npt.NDArray[np.float64], int | None, tuple[str, ...]]:
    """The affine in RAS+, the axis of values (kind list or vector), and notes."""
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) - {"", "mm", "???"}
    if units:
        raise UserError(f"has the unit {', '.join(sorted(units))}", where, "write the header in mm")
    if "space directions" in fields:
        vectors = _vectors(fields["space directions"])
        axes = [v for v in vectors if v is not None]
        if len(vectors) != dimension or dimension - len(axes) > 1 or len(axes) not in (2, 3):
            raise UserError(
                f"has {dimension} axes, {len(axes)} of them in space", where, "save one volume of 2 or 3 axes"
            )
        space = fields.get("space", "").lower()
        if space not in SPACES and len(axes) == 3:
            raise UserError(
                f"has the space {space or 'unnamed'!r}: left and right are unknown",
                where,
                "save it with space left-posterior-superior",
            )
        origin = next(iter(_vectors(fields.get("space origin", "")) or []), None) or [0.0] * len(axes[0])
        value_axis = vectors.index(None) if None in vectors else None
        return affine_of(axes, origin, SPACES.get(space, (-1.0, -1.0, 1.0))), value_axis, ()
    spacings = [float(s) for s in fields.get("spacings", "").split()]
    used = [axis for axis, s in enumerate(spacings) if np.isfinite(s)]
    if len(spacings) != dimension or len(used) not in (2, 3) or dimension - len(used) > 1:
        raise UserError("has no spacing and no orientation", where, "save it with space directions in mm")
    steps = [[spacings[axis] if n == m else 0.0 for m in range(len(used))] for n, axis in enumerate(used)]
    value_axis = next((axis for axis in range(dimension) if axis not in used), None)
    note = f"no orientation in the header: {IN_DOUBT} (taken as L, P, S)"
    return affine_of(steps, [0.0] * len(used), (-1.0, -1.0, 1.0)), value_axis, (note,)


def _vectors(text: str) -> list[list[float] | None]:
    parts = re.findall(r"none|\([^)]*\)", text.lower())
    return [None if part == "none" else [float(x) for x in part[1:-1].split(",")] for part in parts]


def header_text(array: npt.NDArray[Any], geometry: Geometry, several: bool) -> str:
    """The header of an attached, gzip-encoded NRRD; `several`: the first axis holds channels."""
    affine, ndim = lps_affine(geometry), geometry.ndim
    vectors = [f"({numbers_text(affine[:ndim, n], ',')})" for n in range(ndim)]
    sizes = [str(n) for n in array.shape]
    space = "space: left-posterior-superior" if ndim == 3 else "space dimension: 2"
    return "\n".join([
        "NRRD0005", f"type: {TYPE_NAMES[array.dtype.str[1:]]}", f"dimension: {array.ndim}", space,
        f"sizes: {' '.join(sizes)}", f"space directions: {' '.join(['none'] * several + vectors)}",
        f"kinds: {' '.join(['list'] * several + ['domain'] * ndim)}", "endian: little", "encoding: gzip",
        f"space origin: ({numbers_text(affine[:ndim, 3], ',')})", "", "",
    ])  # fmt: skip
