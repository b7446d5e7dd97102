"""The source pictures of a segmentation as the library takes them, and the list of those it refers to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medseg.core.errors import UserError
from medseg.io.dicom.class_names import to_unicode
from medseg.io.dicom.headers import Slice
from medseg.io.dicom.stacks import Stack
from medseg.io.dicom.tags import FUNCTIONAL_GROUPS
from medseg.io.dicom.write_series import CT_IMAGE, decimals

if TYPE_CHECKING:
    from pydicom import Dataset


def plain_pictures(stack: Stack, thickness_mm: float) -> list[Dataset]:
    """One header a picture, in the order of the stack, each that of a file of one picture.

    The library wants exactly equal directions, a thickness in every header, and of Enhanced images one file with all
    frames whose groups stand where it looks; series of scanners are not like that. Of the first picture the whole
    header is taken, since patient and study are copied from it, of the others what places and names them.
    `refer_to` says later what was referred to. thickness_mm: of pictures that tell none.
    """
    from pydicom import Dataset, dcmread

    first = stack.first
    whole = dcmread(first.path, stop_before_pixels=True, force=True)
    to_unicode(whole)
    for name in (*FUNCTIONAL_GROUPS, "NumberOfFrames"):
        if name in whole:
            delattr(whole, name)
    headers = [whole, *(Dataset() for _ in stack.slices[1:])]
    for header, one in zip(headers, stack.slices):
        for name, value in (("SOPClassUID", one.sop_class), ("SOPInstanceUID", one.sop_uid)):
            if not value:
                raise UserError(
                    f"a picture has no {name}, so a DICOM segmentation could not refer to it",
                    one.path.name,
                    "what took names away has emptied it; write nifti or nrrd instead",
                )
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            if name in whole:
                setattr(header, name, whole[name].value)
        header.SOPClassUID, header.SOPInstanceUID = CT_IMAGE, one.sop_uid
        header.Rows, header.Columns = one.rows, one.columns
        header.ImagePositionPatient = decimals(one.position)
        header.ImageOrientationPatient = decimals([*first.along_columns, *first.along_rows])
        header.PixelSpacing = decimals([first.row_spacing, first.column_spacing])
        header.SliceThickness = decimals([first.thickness or thickness_mm])[0]
    return headers


def refer_to(made: Dataset, slices: Sequence[Slice]) -> None:
    """Lists the files of the pictures, each once and by its own SOP class, as what the segmentation was made from."""
    from pydicom import Dataset
    from pydicom.sequence import Sequence as Items

    items = []
    for uid, sop_class in {one.sop_uid: one.sop_class for one in slices}.items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        items.append(item)
    made.SourceImageSequence = Items(items)
    made.ReferencedSeriesSequence[0].ReferencedInstanceSequence = Items(items)
