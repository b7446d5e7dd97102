"""The text header of MetaImage files (.mha, .mhd), read and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.io.layout import IN_DOUBT, Layout, affine_of, beside, lps_affine, numbers_text
from medseg.io.voxels import grid

TYPES = {"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
              "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8",
              "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8"}  # fmt: skip


DIRECTIONS = {"TransformMatrix", "Rotation", "Orientation"}
"""Names of the field that says where the axes point."""


def read_header(start: bytes, path: Path) -> Layout:
    """The layout that the first bytes of a MetaImage file describe."""
    fields: dict[str, str] = {}
    end = 0
    for line in start.splitlines(keepends=True):
        key, equals, value = line.partition(b"=")
        end += len(line)
        if not equals:
            break
        fields[key.strip().decode("ascii", "replace")] = value.strip().decode("utf-8", "replace")
        if key.strip() == b"ElementDataFile":
            break
    if "ElementDataFile" not in fields:
        raise UserError("is no MetaImage file (its header is damaged or of another kind)", path.name)
    if fields.get("BinaryData", "True").lower() in ("false", "0"):
        raise UserError("stores its voxels as text", path.name, "save it as binary MetaImage or NIfTI")
    dimension = int(fields["NDims"])
    values = int(fields.get("ElementNumberOfChannels", 1))
    shape = tuple(int(n) for n in fields["DimSize"].split())
    if len(shape) != dimension or dimension not in (2, 3):
        raise UserError(f"has {dimension} axes; an image has 2 or 3", path.name, "save one volume of it")
    if fields["ElementType"] not in TYPES:
        raise UserError(f"has voxels of type {fields['ElementType']}", path.name, "save integers or floats")
    name = fields["ElementDataFile"]
    if name.upper().startswith("LIST") or "%" in name:
        raise UserError("is spread over several data files", path.name, "save it as one .mha file")
    local = name.upper() == "LOCAL"
    packed = fields.get("CompressedData", "False").lower() in ("true", "1")
    big = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")).lower() in (
        "true",
        "1",
    )
    skip = int(fields.get("HeaderSize", 0))
    return Layout(
        grid(shape, _metaaffine_of(fields, dimension), path.name),
        shape if values == 1 else (values, *shape), None if values == 1 else 0,
        np.dtype((">" if big else "<") + TYPES[fields["ElementType"]]), "zlib" if packed else "raw",
        path if local else beside(path, name), end if local else skip, _doubts(fields, len(shape)),
    )  # fmt: skip


def _doubts(fields: Mapping[str, str], dimension: int) -> tuple[str, ...]:
    """What has to be said of a volume whose header names no directions."""
    if dimension < 3 or DIRECTIONS & set(fields):
        return ()
    return (f"no orientation in the header: {IN_DOUBT} (taken as L, P, S)",)


def _metaaffine_of(fields: Mapping[str, str], dimension: int) -> npt.NDArray[np.float64]:
    numbers = {key: [float(x) for x in value.split()] for key, value in fields.items() if key in
               ("TransformMatrix", "Rotation", "Orientation", "Offset", "Position", "Origin", "ElementSpacing", "ElementSize")}  # fmt: skip
    spacing = numbers.get("ElementSpacing") or numbers["ElementSize"]
    matrix = next((numbers[k] for k in sorted(DIRECTIONS, reverse=True) if k in numbers), None)
    directions = np.eye(dimension) if matrix is None else np.reshape(matrix, (dimension, dimension))
    origin = next((numbers[k] for k in ("Offset", "Position", "Origin") if k in numbers), [0.0] * dimension)
    # A row of the matrix is the direction of one axis.
    axes = [[float(x) * spacing[n] for x in directions[n]] for n in range(dimension)]
    return affine_of(axes, origin, (-1.0, -1.0, 1.0))


def header_text(array: npt.NDArray[Any], geometry: Geometry, several: bool, packed: int) -> str:
    """The header of a compressed .mha whose voxels take `packed` bytes; `several`: the first axis holds channels."""
    affine, ndim = lps_affine(geometry), geometry.ndim
    directions = affine[:ndim, :ndim] / np.asarray(geometry.spacing)
    kind = {code: name for name, code in TYPES.items() if "LONG" not in name or "LONG_LONG" in name}
    values = [f"ElementNumberOfChannels = {array.shape[0]}"] if several else []
    return "\n".join([
        "ObjectType = Image", f"NDims = {ndim}", "BinaryData = True", "BinaryDataByteOrderMSB = False",
        "CompressedData = True", f"CompressedDataSize = {packed}",
        f"TransformMatrix = {numbers_text(directions.T.ravel())}", f"Offset = {numbers_text(affine[:ndim, 3])}",
        f"CenterOfRotation = {numbers_text([0.0] * ndim)}", f"ElementSpacing = {numbers_text(geometry.spacing)}",
        f"DimSize = {' '.join(str(n) for n in geometry.shape)}", *values,
        f"ElementType = {kind[array.dtype.str[1:]]}", "ElementDataFile = LOCAL", "",
    ])  # fmt: skip
