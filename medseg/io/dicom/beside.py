"""The images that a structure set or segmentation was drawn on, looked for beside its file."""

from __future__ import annotations

from pathlib import Path

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.io.dicom.read import read_series_geometry
from medseg.io.dicom.read_rtstruct import References, references_of
from medseg.io.dicom.scan import scan
from medseg.io.dicom.series import Series


def grid_beside(path: Path) -> Geometry:
    """The grid of the series that a structure set refers to, from the files in its folder and below.

    Raises UserError where the series is not there, is there in part, or is no volume.
    """
    wanted = references_of(path)
    series, _ = scan(path.parent)
    found = [one for one in series if drawn_on(wanted, one)]
    if len(found) != 1:
        there = f"{len(found)} series beside it fit" if found else "no series beside it is one of them"
        raise UserError(
            f"refers to {len(wanted.instances)} pictures of {len(wanted.series)} series; {there}",
            path.name,
            "put the file into the folder of its images, or give the image as well",
        )
    if why := found[0].facts.get("conflict"):
        raise UserError(
            f"was drawn on a series that is no volume: {why}", path.name, "export the series again"
        )
    return read_series_geometry(found[0].files)


def drawn_on(references: References, series: Series) -> bool:
    """Whether a structure set or segmentation says that it was drawn on this series.

    The series has to be named, and the frame of reference, where both have one, has to be the same.
    """
    same_frame = not references.frames or not series.frame_of_reference
    same_frame = same_frame or series.frame_of_reference in references.frames
    return series.series_uid in references.series and same_frame
