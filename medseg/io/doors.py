"""The doors of this room: any readable file to the waist, and a result to a file, by content and by ending."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.case import Image
from medseg.core.errors import UserError, did_you_mean
from medseg.core.geometry import Geometry
from medseg.core.label_values import value_counts
from medseg.core.segmentation import ClassInfo, Segmentation, default_colour
from medseg.io.names import DICOM, ITK, NIFTI, RASTER, READABLE, WRITABLE, stem_of, suffix_of, without_ending

__all__ = [
    "READABLE",
    "channels_hash",
    "content_hash",
    "read_geometry",
    "read_image",
    "read_segmentation",
    "stem_of",
    "suffix_of",
    "write_array",
    "write_segmentation",
]

Paths = Path | str | Sequence[Path] | Sequence[str]


def read_image(
    paths: Paths,
    irregular: str = "error",
    spacing_tolerance: float = 0.01,
    channels: bool = False,
) -> Image:
    """Reads an image: (C, *S) on its grid, in the stored axis order, in physical values (HU for CT).

    Parameters
    ----------
    paths: one file; or a folder or several files, which are one DICOM series.
    irregular: DICOM slices missing or uneven: "error" and "skip" raise IrregularSeries, "resample" interpolates.
    spacing_tolerance: allowed relative deviation of DICOM slice distances.
    channels: whether several values a voxel in one file are channels of one image; else they are refused.

    Raises UserError for what cannot be read as an image, in words.
    """
    files = _files(paths)
    kind = _kind(files)
    if kind == "dicom":
        from medseg.io.dicom.read import read_series

        return read_series(files, irregular, spacing_tolerance)
    if kind == "nifti":
        from medseg.io.nifti import read_nifti

        return read_nifti(files[0], channels)
    if kind == "itk":
        from medseg.io.itk import read_itk

        return read_itk(files[0], channels)
    from medseg.io.raster import read_raster

    return read_raster(files[0])


def read_geometry(paths: Paths, irregular: str = "error", spacing_tolerance: float = 0.01) -> Geometry:
    """The grid of an image or label file; voxels are not read."""
    files = _files(paths)
    kind = _kind(files)
    if kind == "dicom":
        from medseg.io.dicom.read import read_series_geometry
        from medseg.io.dicom.read_seg import is_seg, read_seg

        if len(files) == 1 and is_seg(files[0]):
            return read_seg(files[0]).geometry
        if len(files) == 1 and (grid := _grid_of_contours(files[0])) is not None:
            return grid
        return read_series_geometry(files, irregular, spacing_tolerance)
    if kind == "nifti":
        from medseg.io.nifti import read_nifti_geometry

        return read_nifti_geometry(files[0])
    if kind == "itk":
        from medseg.io.itk import read_itk_geometry

        return read_itk_geometry(files[0])
    from medseg.io.raster import read_raster_geometry

    return read_raster_geometry(files[0])


def read_segmentation(
    path: Path | str, classes: Sequence[ClassInfo] = (), onto: Geometry | None = None
) -> Segmentation:
    """Reads a label map of any readable format, DICOM segmentations and structure sets (RTSTRUCT) included.

    classes: what the values mean; without them every value found becomes a class named after it. A DICOM-SEG and an
        RTSTRUCT bring their own names and numbers; with `classes` they are matched to them by name or code.
    onto: the image's grid. A DICOM-SEG stores only the frames that are not empty: with `onto` it is placed on the
        whole grid by position. An RTSTRUCT is filled on it; without `onto` the images are looked for beside the
        file. Other formats are returned on their own grid.

    Values that are nearly whole are rounded, which `provenance["notes"]` says; other fractions raise UserError with
    the values and their voxel counts.
    """
    files = _files(path)
    kind = _kind(files)
    if kind == "dicom":
        from medseg.io.dicom.read_seg import in_classes, place_on, read_seg

        found = _filled_contours(files[0], onto) or read_seg(files[0])
        found = in_classes(found, classes) if classes else found
        return found if onto is None else place_on(found, onto)
    from medseg.io.labels import as_labels, refuse_channels

    if kind == "raster":
        from medseg.io.raster import read_label_picture

        array, notes = read_label_picture(files[0])
        geometry = Geometry.pixels(array.shape)
    else:
        image = read_image(files[0])
        array, notes, geometry = refuse_channels(image.array, files[0]), image.notes, image.geometry
    labels, more = as_labels(array, files[0].name)
    provenance = {"files": (str(files[0]),), "notes": (*notes, *more)}
    return Segmentation(labels, geometry, tuple(classes) or classes_found(labels), provenance=provenance)


def _grid_of_contours(path: Path) -> Geometry | None:
    """The grid of the images that a structure set was drawn on; None for any other file."""
    from medseg.io.dicom.read_rtstruct import is_rtstruct

    if not is_rtstruct(path):
        return None
    from medseg.io.dicom.beside import grid_beside

    return grid_beside(path)


def _filled_contours(path: Path, onto: Geometry | None) -> Segmentation | None:
    """A structure set as labels; None for any other file."""
    from medseg.io.dicom.read_rtstruct import is_rtstruct, read_rtstruct

    if not is_rtstruct(path):
        return None
    grid = onto or _grid_of_contours(path)
    assert grid is not None
    return read_rtstruct(path, grid)


def classes_found(labels: npt.NDArray[Any]) -> tuple[ClassInfo, ...]:
    """A class for every value but 0, named after the value."""
    values = [v for v in value_counts(labels) if v != 0]
    return tuple(ClassInfo(f"class {v}", v, default_colour(n)) for n, v in enumerate(values))


def write_segmentation(seg: Segmentation, path: Path, source: Image | None = None) -> Path:
    """Writes the label map by the ending of `path` (.nii.gz .nii .nrrd .mha .png .tif), whole or not at all.

    source: the image the labels belong to; a NIfTI's sform, qform, codes and unit are then kept to the bit.
    """
    path = Path(path)
    if suffix_of(path) in NIFTI[:2]:
        from medseg.io.nifti import write_nifti

        return write_nifti(_compact(seg.labels), seg.geometry, path, _header_of(source))
    if suffix_of(path) in (".nrrd", ".mha"):
        from medseg.io.itk import write_itk

        return write_itk(_compact(seg.labels), seg.geometry, path)
    if suffix_of(path) in (".png", ".tif", ".tiff"):
        from medseg.io.raster import write_mask

        return write_mask(seg.labels, path, seg.classes)
    raise _cannot_write(path)


def write_array(array: npt.NDArray[Any], geometry: Geometry, path: Path, source: Image | None = None) -> Path:
    """Writes an image or probabilities, (*S) or (C, *S), by the ending of `path`; half precision becomes single."""
    path = Path(path)
    array = array.astype(np.float32) if array.dtype == np.float16 else array
    array = array.astype(np.uint8) if array.dtype == np.bool_ else array
    if suffix_of(path) in NIFTI[:2]:
        from medseg.io.nifti import write_nifti

        return write_nifti(array, geometry, path, _header_of(source))
    if suffix_of(path) in (".nrrd", ".mha"):
        from medseg.io.itk import write_itk

        return write_itk(array, geometry, path)
    if suffix_of(path) in (".png", ".tif", ".tiff"):
        from medseg.io.raster import write_picture

        return write_picture(array if array.ndim == 3 else array[None], path)
    raise _cannot_write(path)


def content_hash(paths: Paths) -> str:
    """sha256 over the bytes of the files, the same whatever their names and order; a detached data file counts."""
    files: list[Path] = []
    for file in _files(paths, readable_only=False):
        files += _with_companions(file)
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def channels_hash(channels: Sequence[Sequence[str]]) -> str:
    """`content_hash` of an image whose channels lie in files of their own: another one when channels change places."""
    digests = [content_hash([Path(name) for name in channel]) for channel in channels]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _with_companions(file: Path) -> tuple[Path, ...]:
    if suffix_of(file) in (".mhd", ".nhdr"):
        from medseg.io.itk import companions

        return tuple(f for f in companions(file) if f.exists())
    for ours, theirs in ((".img", ".hdr"), (".hdr", ".img")):
        if suffix_of(file).startswith(ours):
            other = file.with_name(without_ending(file) + theirs + suffix_of(file)[len(ours) :])
            return tuple(sorted(f for f in (file, other) if f.exists()))
    return (file,)


def _compact(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The labels in the smallest of uint8, int16, int32: types that every program opens."""
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    for kind in (np.uint8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return labels.astype(kind, copy=False)
    raise UserError(f"labels from {low} to {high} do not fit 32 bits")


def _header_of(source: Image | None) -> bytes | None:
    return None if source is None else source.origin.get("header")


def _cannot_write(path: Path) -> UserError:
    ending = suffix_of(path)
    return UserError(
        f"cannot write the format {ending or 'without ending'!r}{did_you_mean(ending, WRITABLE)}",
        path.name,
        f"endings that can be written: {' '.join(WRITABLE)}",
    )


def _files(paths: Paths, readable_only: bool = True) -> list[Path]:
    """The files meant: one, those of a folder, or those of a list."""
    several = [Path(paths)] if isinstance(paths, str | Path) else [Path(p) for p in paths]
    if not several:
        raise UserError("no file was given")
    missing = [p for p in several if not p.exists()]
    if missing:
        raise UserError(
            "no such file" if len(missing) == 1 else f"{len(missing)} of {len(several)} files are missing",
            missing[0].name,
            "is the path right, and is the disk mounted?",
        )
    if len(several) == 1 and several[0].is_dir():
        return _series_in(several[0]) if readable_only else [f for f in _below(several[0]) if f.is_file()]
    return several


def _below(folder: Path) -> list[Path]:
    from medseg.io.dicom.scan import files_below

    return files_below(folder)


def _series_in(folder: Path) -> list[Path]:
    """The files of the one DICOM series of a folder. Raises UserError where there is none, or a choice."""
    from medseg.config import Select
    from medseg.io.dicom.scan import choose, scan

    series, left = scan(folder)
    reasons: dict[str, int] = {}
    for one in left:
        reasons[one.reason] = reasons.get(one.reason, 0) + 1
    counted = [f"{count} file(s) left out: {reason}" for reason, count in sorted(reasons.items())]
    if not series:
        raise UserError(
            "holds no DICOM series", folder.name, "give a file, or a folder of DICOM files", counted
        )
    if len(series) == 1:
        if why := series[0].facts["conflict"]:
            raise UserError(
                f"its series is no volume: {why}", folder.name, "export the series again", counted
            )
        return list(series[0].files)
    choice = choose(series, Select.model_validate({}))
    if len(choice.kept) != 1:
        raise UserError(
            f"holds {len(series)} series, {len(choice.kept)} of them usable",
            folder.name,
            "set the rules of data.select, or give the files of one series",
            (*choice.table(), *counted),
        )
    return list(choice.kept[0].files)


def _kind(files: Sequence[Path]) -> str:
    """nifti, itk, raster or dicom: by the first bytes, then by the ending."""
    if len(files) > 1:
        return "dicom"
    path = files[0]
    if path.is_dir():
        raise UserError("is a folder", path.name, "give a file")
    try:
        with path.open("rb") as file:
            start = file.read(352)
    except PermissionError as err:
        raise UserError(
            "no permission to read it", path.name, "ask its owner for the right to read it"
        ) from err
    ending = suffix_of(path)
    if start.startswith(b"NRRD") or (ending in ITK and ending not in (".nrrd", ".nhdr")):
        return "itk"
    if start[128:132] == b"DICM":
        return "dicom"
    if start.startswith((b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM")) and ending not in NIFTI:
        return "raster"
    if ending in NIFTI or start[344:348] in (b"n+1\0", b"ni1\0") or start[4:7] in (b"n+2", b"ni2"):
        return "nifti"
    for kind, endings in (("itk", ITK), ("raster", RASTER), ("dicom", DICOM)):
        if ending in endings:
            return kind
    if not ending and start[:2] in (b"\x08\x00", b"\x02\x00"):
        return "dicom"
    archive = ending in (".zip", ".7z", ".rar", ".tar", ".tgz", ".gz", ".bz2", ".xz")
    raise UserError(
        "is an archive" if archive else f"is of a format that is not known ({ending or 'no ending'})",
        path.name,
        "unpack it first" if archive else f"formats that can be read: {' '.join(READABLE)}",
    )
