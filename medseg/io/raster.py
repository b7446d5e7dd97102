"""Photographs, films and slides: PNG, JPEG, TIFF, BMP. The grid is in pixels (rows, columns); EXIF turns are applied."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.core.atomic import atomic_path
from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo
from medseg.io.names import suffix_of
from medseg.io.pictures import unpacked
from medseg.io.sizes import refuse_oversize

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

TURNED = "turned upright as its EXIF header says"
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, OverflowError, struct.error)
"""What Pillow raises over damaged bytes."""

MOST_A_PICTURE_EXPANDS = 100_000
"""A flat PNG shrinks by about 1000 to 1, a flat TIFF or JPEG by more; this only stops bombs."""

MOST_TIFF_EXPANDS = 1100
"""Deflate cannot shrink by more than about 1032 to 1; a TIFF that unpacks to more is no picture."""

EXIF_ORIENTATION = 0x0112
TIFF_BITS_A_SAMPLE = 0x0102


def read_raster(path: Path) -> Image:
    """Reads a picture: (C, H, W), grey C = 1 or colour C = 3, 8 or 16 bits as stored, grid in px.

    Raises UserError for damaged files, bombs and stacks of pages.
    """
    with _opened(path) as picture:
        if picture is None:
            array = _by_tifffile(path)
            return Image(array, _pixels(array), "", _origin(path))
        picture, notes = _upright(picture, path)
        if _is_deep_colour(path):
            notes = (*notes, "16 bits a colour are read as 8")
        array, more = _grey_or_colour(picture)
    return Image(array, _pixels(array), "", _origin(path), (*notes, *more))


def read_label_picture(path: Path) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Reads a mask: (H, W) integers; a palette picture gives its indices, not its colours. And notes."""
    with _opened(path) as picture:
        if picture is None:
            array = _by_tifffile(path)
        else:
            picture, notes = _upright(picture, path)
            array = np.asarray(picture)
            if array.dtype == bool:
                return array.astype(np.uint8), notes
            array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    if array.shape[0] in (2, 4) and np.all(array[-1] == array[-1].flat[0]):
        array = array[:-1]  # an even alpha channel says nothing
    if array.shape[0] == 3 and (array == array[:1]).all():
        array = array[:1]
    if array.shape[0] != 1:
        raise UserError(
            "is a mask in colours",
            path.name,
            "save it as a grey or palette picture whose values are the classes",
        )
    return array[0], () if picture is None else notes


def read_raster_geometry(path: Path) -> Geometry:
    """The grid alone, in px; EXIF turns counted."""
    with _opened(path) as picture:
        if picture is None:
            return _pixels(_by_tifffile(path))
        width, height = picture.size
        turned = picture.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return Geometry.pixels((width, height) if turned else (height, width))


def write_mask(labels: npt.NDArray[Any], path: Path, classes: Sequence[ClassInfo] = ()) -> Path:
    """Writes (H, W) integers as .png or .tif; up to 256 values as a palette picture in the classes' colours."""
    from PIL import Image as Pillow

    if labels.ndim != 2:
        raise UserError(
            f"a picture has two axes, this mask has {labels.shape}", path.name, "write .nii.gz instead"
        )
    highest = int(labels.max(initial=0))
    if highest > 65535 or int(labels.min(initial=0)) < 0:
        raise UserError(
            f"label {highest} does not fit a picture's 16 bits", path.name, "write .nii.gz instead"
        )
    picture = Pillow.fromarray(labels.astype(np.uint8 if highest < 256 else np.uint16))
    if highest < 256 and classes and suffix_of(path) == ".png":
        picture.putpalette(_palette(classes))
    return _save(picture, path)


def write_picture(array: npt.NDArray[Any], path: Path) -> Path:
    """Writes (C, H, W), C = 1 or 3 of 8 bits (or one of 16), as .png or .tif; floats become 32-bit .tif."""
    from PIL import Image as Pillow

    if array.ndim != 3 or array.shape[0] not in (1, 3):
        raise UserError(f"a picture has 1 or 3 channels of rows and columns, got {array.shape}", path.name)
    if array.dtype.kind == "f" and suffix_of(path) not in (".tif", ".tiff"):
        raise UserError("fractions do not fit a PNG", path.name, "write .tif instead")
    flat = array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)
    flat = flat.astype(np.float32) if flat.dtype.kind == "f" else flat
    return _save(Pillow.fromarray(np.ascontiguousarray(flat)), path)


def _save(picture: Picture, path: Path) -> Path:
    kind = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}[suffix_of(path)]
    with atomic_path(path) as part:
        if kind == "TIFF":
            picture.save(part, format=kind, compression="tiff_deflate")
        else:
            picture.save(part, format=kind)
    return path


def _palette(classes: Sequence[ClassInfo]) -> list[int]:
    """256 colours: black, the classes' own, and grey for what has none."""
    colours = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    colours[0] = 0
    for info in classes:
        if 0 < info.index < 256:
            colours[info.index] = info.colour
    return [int(v) for v in colours.ravel()]


def _origin(path: Path) -> dict[str, Any]:
    return {"files": (str(path),), "format": "picture"}


def _pixels(array: npt.NDArray[Any]) -> Geometry:
    return Geometry.pixels(array.shape[-2:])


@contextmanager
def _opened(path: Path) -> Iterator[Picture | None]:
    """A picture whose size has been checked, or None where only tifffile knows the format. Errors become sentences."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    if path.stat().st_size == 0:
        raise UserError("is empty (0 bytes)", path.name, "copy or export the file again")
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            with Pillow.open(file) as picture:
                _refuse_odd_sizes(picture, path)
                yield None if _is_deep_tiff(picture) else picture
    except UnidentifiedImageError as err:
        if suffix_of(path) in (".tif", ".tiff"):
            yield None
            return
        raise UserError("is no picture that can be read", path.name, "export it again as PNG") from err
    except _DAMAGE as err:
        reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err).partition("\n")[0]
        raise UserError(f"is damaged ({reason})", path.name, "copy or export the file again") from err
    except Pillow.DecompressionBombError as err:
        raise UserError("claims more pixels than a picture has", path.name, "cut it into tiles") from err


def _refuse_odd_sizes(picture: Picture, path: Path) -> None:
    width, height = picture.size
    refuse_oversize(
        width * height * 4, max(path.stat().st_size, 1), path.name, expands=MOST_A_PICTURE_EXPANDS
    )
    pages = getattr(picture, "n_frames", 1)
    if pages > 1:
        raise UserError(
            f"holds {pages} pages",
            path.name,
            "save each page as a picture, or the stack as NIfTI with its spacing",
        )


def _upright(picture: Picture, path: Path) -> tuple[Picture, tuple[str, ...]]:
    """The picture with its pixels, which another process unpacks and turns."""
    from PIL import Image as Pillow

    width, height = picture.size
    facts, pixels = unpacked(path, width * height * 4)
    decoded = Pillow.frombytes(facts["mode"], tuple(facts["size"]), pixels.tobytes())
    if facts["palette"] is not None:
        decoded.putpalette(facts["palette"])
    return decoded, (TURNED,) if facts["turned"] else ()


def _grey_or_colour(picture: Picture) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Any mode -> (1, H, W) or (3, H, W)."""
    mode = picture.mode
    notes: tuple[str, ...] = ()
    if mode == "1":
        return (np.asarray(picture).astype(np.uint8) * 255)[None], ()
    if mode in ("P", "PA"):
        picture, notes = picture.convert("RGB"), ("palette turned into colours",)
    elif mode in ("RGBA", "RGBa", "LA", "La"):
        picture, notes = picture.convert("RGB" if "R" in mode else "L"), ("alpha channel left out",)
    elif mode not in ("L", "I", "F", "RGB") and not mode.startswith("I;16"):
        picture, notes = picture.convert("RGB"), (f"converted from {mode} to RGB",)
    array = np.asarray(picture)
    if array.dtype == np.int32 and array.size and array.min() >= 0 and array.max() < 65536:
        array = array.astype(np.uint16)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0), notes


def _is_deep_colour(path: Path) -> bool:
    """Whether a PNG has 16 bits for each of its colours, which Pillow reads as 8."""
    with path.open("rb") as file:
        start = file.read(26)
    return start.startswith(b"\x89PNG") and start[24:25] == b"\x10" and start[25:26] in (b"\x02", b"\x06")


def _is_deep_tiff(picture: Picture) -> bool:
    """Whether a TIFF has more than 8 bits for each of several channels, which Pillow would cut to 8."""
    bits = getattr(picture, "tag_v2", {}).get(TIFF_BITS_A_SAMPLE, (8,))
    return isinstance(bits, tuple) and len(bits) > 1 and max(bits) > 8


def _by_tifffile(path: Path) -> npt.NDArray[Any]:
    """(C, H, W) of a TIFF that Pillow does not know, e.g. 16 bits a colour."""
    try:
        facts, pixels = unpacked(path, MOST_TIFF_EXPANDS * path.stat().st_size, whole=True)
    except ValueError as err:
        raise UserError(
            "is damaged or of an unknown kind of TIFF", path.name, "export it again as PNG"
        ) from err
    if facts["pages"] != 1:
        raise UserError(f"holds {facts['pages']} pages", path.name, "save each page as a picture")
    shape, kind = facts["array"]
    array = pixels.view(kind).reshape(shape)
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        return np.moveaxis(array[..., :3], -1, 0)
    raise UserError(f"is a TIFF of shape {array.shape}, no picture", path.name, "save it as PNG")
