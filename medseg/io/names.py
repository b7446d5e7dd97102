"""File names: endings that mean a format, and names without them."""

from __future__ import annotations

from pathlib import Path

NIFTI = (".nii.gz", ".nii", ".hdr", ".img")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
RASTER = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
DICOM = (".dcm", ".dicom", ".ima", ".seg")

READABLE = (*NIFTI, *ITK, *RASTER, *DICOM)
"""Endings of files that `read_image` and `read_segmentation` know; files are judged by content where it tells."""

WRITABLE = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff")


def suffix_of(path: Path | str) -> str:
    """The ending that tells the format, in lower case, with both parts of `.nii.gz`.

    >>> suffix_of("a/Scan.NII.GZ"), suffix_of("scan.v2.mha"), suffix_of("IM0001")
    ('.nii.gz', '.mha', '')
    """
    name = Path(path).name.lower()
    if name.endswith((".nii.gz", ".img.gz", ".hdr.gz")):
        return name[-7:]
    if name.endswith(".seg.nrrd"):
        return ".nrrd"
    return Path(name).suffix


def stem_of(path: Path | str) -> str:
    """The name without the ending that `suffix_of` finds, as people read it (`in_letters`).

    >>> stem_of("a/Scan.NII.GZ"), stem_of("scan.v2.mha"), stem_of("IM0001")
    ('Scan', 'scan.v2', 'IM0001')
    """
    return in_letters(without_ending(path))


def without_ending(path: Path | str) -> str:
    """The name without its ending as the file system has it, for the names of files beside it."""
    name = Path(path).name
    ending = suffix_of(name)
    if ending == ".nrrd" and name.lower().endswith(".seg.nrrd"):
        return name[:-9]
    return name[: len(name) - len(ending)] if ending and len(ending) < len(name) else name


def in_letters(name: str) -> str:
    """A name of the file system whose bytes are no UTF-8 in letters: discs of older systems hold Latin-1.

    Python stands lone surrogates in the place of such bytes, which no file, table or screen can hold.

    >>> in_letters("M\\udcfcller"), in_letters("Müller")
    ('Müller', 'Müller')
    """
    if name.isprintable() or not any("\udc80" <= letter <= "\udcff" for letter in name):
        return name
    stored = name.encode("utf-8", "surrogateescape")
    try:
        return stored.decode("utf-8")
    except UnicodeDecodeError:
        return stored.decode("latin-1")
