"""What medseg reads and writes of DICOM, as a table that tests hold: every row is read or written by one of them.

`python docs/render.py` prints the page from it; the attributes in the page are those of files written while printing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

READ_SYNTAXES = {
    "1.2.840.10008.1.2": "made", "1.2.840.10008.1.2.1": "made", "1.2.840.10008.1.2.2": "made",
    "1.2.840.10008.1.2.1.99": "made", "1.2.840.10008.1.2.5": "made", "1.2.840.10008.1.2.4.80": "made",
    "1.2.840.10008.1.2.4.81": "made", "1.2.840.10008.1.2.4.90": "made", "1.2.840.10008.1.2.4.91": "made",
    "1.2.840.10008.1.2.4.50": "made", "1.2.840.10008.1.2.4.57": "made", "1.2.840.10008.1.2.4.201": "made",
    "1.2.840.10008.1.2.4.202": "made", "1.2.840.10008.1.2.4.203": "made",
    "1.2.840.10008.1.2.4.70": "transfer_syntaxes/MR4_JPLL.dcm",
}  # fmt: skip
"""Transfer syntax -> the real file that a test reads, or "made": a test writes a series in it and reads it back."""

READ_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "volumes", "1.2.840.10008.5.1.4.1.1.4": "volumes",
    "1.2.840.10008.5.1.4.1.1.128": "volumes", "1.2.840.10008.5.1.4.1.1.2.1": "volumes",
    "1.2.840.10008.5.1.4.1.1.4.1": "volumes", "1.2.840.10008.5.1.4.1.1.2.2": "volumes",
    "1.2.840.10008.5.1.4.1.1.1": "films, as pictures in px",
    "1.2.840.10008.5.1.4.1.1.66.4": "labels", "1.2.840.10008.5.1.4.1.1.66.7": "labels",
    "1.2.840.10008.5.1.4.1.1.481.3": "labels",
}  # fmt: skip
"""Storage class -> what it is read as."""

WRITTEN = {
    "dicom_seg": ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.1.2.1"),
    "dicom_labelmap": ("1.2.840.10008.5.1.4.1.1.66.7", "1.2.840.10008.1.2.4.80"),
    "dicom_fractional": ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.1.2.4.80"),
    "rtstruct": ("1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.1.2"),
}
"""Choice of `predict.write` -> storage class and transfer syntax of the file."""

LEFT_OUT = (
    (
        "colour pictures, palettes, secondary captures, dose reports",
        "by samples a pixel, palette, missing position",
    ),
    ("localizers", "by ImageType, or by slices more than 20 mm apart"),
    ("reformatted and projected series (MPR, MIP)", "by ImageType, where an original series is there"),
    (
        "slides, documents, presentation states, plans, registrations",
        "by Modality and missing pixels",
    ),
    ("files without the DICM mark that do not begin like a data set", "not a DICOM file"),
    ("parametric maps of real numbers", "no grey values of a scanner"),
)

ATTRIBUTES_DEEP = 3
"""How many sequences deep the page lists attributes."""


def files_written(folder: Path) -> dict[str, Dataset]:
    """One file of every choice, written from a phantom series of three pictures, as data sets without pixels."""
    from pydicom import dcmread

    from medseg.core.geometry import Geometry
    from medseg.core.segmentation import ClassInfo, Code, Segmentation
    from medseg.io.dicom.read import read_series
    from medseg.io.dicom.rtstruct import write_rtstruct
    from medseg.io.dicom.seg import write_fractions, write_seg
    from medseg.io.dicom.write_series import write_ct_series

    labels = np.zeros((8, 8, 3), np.uint8)
    labels[2:6, 3:6] = 1
    files = write_ct_series(
        labels.astype(np.int16), Geometry(labels.shape, np.diag([-1.0, -1, 2, 1])), folder
    )
    classes = (ClassInfo("left lung", 1, (230, 40, 40), Code("39607008", "SCT", "Lung"), "left"),)
    seg = Segmentation(labels, read_series(files).geometry, classes)
    paths = {name: folder / f"{name}.dcm" for name in WRITTEN}
    write_seg(seg, files, paths["dicom_seg"])
    write_seg(seg, files, paths["dicom_labelmap"], kind="LABELMAP")
    write_fractions(
        seg, lambda _: labels.astype(np.float32) * np.float32(0.8), files, paths["dicom_fractional"]
    )
    write_rtstruct(seg, files, paths["rtstruct"])
    return {name: dcmread(path, stop_before_pixels=True) for name, path in paths.items()}


def attributes_of(dataset: Dataset, depth: int = ATTRIBUTES_DEEP, path: str = "") -> list[str]:
    """The names of all attributes that a data set holds, those of sequences after their sequence's name."""
    names: list[str] = []
    for element in dataset:
        names.append(path + element.keyword)
        if element.VR == "SQ" and depth > 1 and element.value:
            names += attributes_of(element.value[0], depth - 1, f"{path}{element.keyword} > ")
    return names


def page() -> str:
    """docs/dicom-conformance.md."""
    with tempfile.TemporaryDirectory() as folder:
        written = files_written(Path(folder))
    lines = [
        "# DICOM: what is read and what is written", "",
        "Printed by `python docs/render.py` from `medseg/io/dicom/conformance.py`. Every line is held by a test under",
        "`tests/io/`; what is not listed is not promised. medseg reads and writes files; it offers no network service.",
        "", "## Read", "", "| storage class | UID | as |", "|---|---|---|",
        *(f"| {_name(uid)} | {uid} | {how} |" for uid, how in READ_CLASSES.items()),
        "", "| transfer syntax | UID | shown by |", "|---|---|---|",
        *(f"| {_name(uid)} | {uid} | {_shown(how)} |" for uid, how in READ_SYNTAXES.items()),
        "", *READING, "", "| left out of volumes, with its reason | known by |", "|---|---|",
        *(f"| {what} | {how} |" for what, how in LEFT_OUT), "",
        "## Written", "", *WRITING, "", "| `predict.write` | storage class | transfer syntax |", "|---|---|---|",
        *(f"| `{n}` | {_name(k)} | {_name(s)} |" for n, (k, s) in WRITTEN.items()), "",
        *_attribute_lines(written),
    ]  # fmt: skip
    return "\n".join(lines)


READING = (
    "Compressed pixels are unpacked by a process of its own, one file at a time: a decoder that crashes, hangs or takes",
    "more memory than the header accounts for ends in a sentence about that file. Sizes are compared with the file",
    "before memory is taken. Slices are ordered by their position along the normal; a gantry tilt is kept as a sheared",
    "grid; missing, uneven and doubled slices are named. Several volumes in one series (phases, echoes, b-values) are",
    "told apart by their headers and never stacked. Structure sets are filled where a voxel's centre lies inside; a",
    "contour inside another of the same structure is a hole.",
)

WRITING = (
    "Frames and contours lie on the source pictures, by their own position and orientation. Each file is read back",
    "before it gets its name: segmentations voxel for voxel and with centroids within 0.1 mm, contours with a Dice of",
    "at least 0.97 and centroids within 0.1 mm, probabilities by their sums and weighted centroids. Contours are closed",
    "and planar, run half way between voxels inside and outside, and join holes to their outline by a channel of no",
    "width. Classes without voxels are not written, and the report names them.",
)


def _attribute_lines(written: Mapping[str, Dataset]) -> list[str]:
    lines: list[str] = []
    for name, dataset in written.items():
        kind = dataset.get("SegmentationType", "")
        lines += [f"### Attributes of `{name}`{f' ({kind})' if kind else ''}", ""]
        lines += [", ".join(f"`{a}`" for a in attributes_of(dataset)) + ".", ""]
    return lines


def _name(uid: str) -> str:
    from pydicom.uid import UID

    return "Label Map Segmentation Storage" if uid.endswith(".66.7") else UID(uid).name


def _shown(how: str) -> str:
    return "a series that is written and read back" if how == "made" else f"a real file ({Path(how).name})"
