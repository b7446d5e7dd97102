"""Writes a result as a DICOM segmentation that viewers open, and proves that it lies where it should.

BINARY (packed bits, one frame a segment and picture) is what viewers read today; LABELMAP (one frame a picture) is
smaller and quicker to load with many classes, and read by few programs so far; FRACTIONAL holds probabilities.

Every frame is made from one source picture and placed by that picture's position and orientation; no plane is known
by name. The file is read back with a reader of its own and compared in millimetres before it gets its name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from medseg.core.atomic import atomic_path
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.io.dicom.class_names import LONGEST_LABEL, labelled, long_string
from medseg.io.dicom.colour import to_cielab
from medseg.io.dicom.compare import require_same
from medseg.io.dicom.on_stack import empty_classes, masks_on, pictures_on
from medseg.io.dicom.read import read_stack
from medseg.io.dicom.read_seg import EXPLICIT_LITTLE, read_seg
from medseg.io.dicom.seg_fractions import Fractions, fill_fractions, require_same_fractions
from medseg.io.dicom.seg_frames import fill, fill_label_map, template_pixels
from medseg.io.dicom.seg_sources import plain_pictures, refer_to
from medseg.io.dicom.stacks import Stack
from medseg.io.dicom.write_series import JPEG_LS_LOSSLESS

if TYPE_CHECKING:
    from highdicom.seg import Segmentation as SegFile
    from highdicom.seg import SegmentDescription

__all__ = ["empty_classes", "read_seg", "write_fractions", "write_seg"]

Kind = Literal["BINARY", "LABELMAP", "FRACTIONAL"]

PRIVATE_SCHEME = "99MEDSEG"
SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}


def write_seg(
    seg: Segmentation,
    source_files: Sequence[Path],
    path: Path,
    *,
    algorithm: str = "medseg",
    version: str = "",
    kind: Literal["BINARY", "LABELMAP"] = "BINARY",
) -> Path:
    """Writes the classes that have voxels as segments of one DICOM segmentation.

    seg: labels (or regions) on the grid of the source series, or on an even grid through it where the series was
        resampled; each source picture then takes the slice nearest to it.
    source_files: the files of the series. algorithm, version: what made the labels, as the file will say.
    kind: LABELMAP is compressed without loss (JPEG-LS) and cannot hold classes that overlap.

    The file is read back and compared: equal voxels and, per class, centroids at most 0.1 mm apart. Classes without
    voxels are not written (`empty_classes` names them). Raises UserError, and leaves no file, where there is nothing
    to write, where the grids differ, or where what was read back is not what was meant.
    """
    stack = read_stack(source_files)
    masks, infos = masks_on(seg, stack)
    if not infos:
        raise UserError(
            "no class has a voxel: a DICOM segmentation cannot be empty",
            path.name,
            "see the report for the empty case",
        )
    if kind == "LABELMAP" and masks.ndim == 4:
        raise UserError(
            "classes overlap, and a label map holds one class a voxel", path.name, "write dicom_seg instead"
        )
    made = _file(template_pixels(masks.shape[:3], len(infos)), infos, stack, kind, (algorithm, version))
    if kind == "BINARY":
        fill(made, masks, stack.slices, len(infos))
    else:
        fill_label_map(made, masks, stack.slices)
    with atomic_path(path, suffix=".dcm") as part:
        made.save_as(part)
        require_same(read_seg(part), masks, infos, stack, path.name)
    return path


def write_fractions(
    seg: Segmentation,
    chance: Callable[[int], npt.NDArray[np.float32]],
    source_files: Sequence[Path],
    path: Path,
    *,
    algorithm: str = "medseg",
    version: str = "",
) -> Path | None:
    """Writes the probabilities of all classes that reach 1/510 somewhere as one FRACTIONAL DICOM segmentation.

    seg: the result; its grid and classes count. chance: position in `seg.classes` -> (*S) of 0..1 on its grid.
    Stored are whole numbers 0..255, compressed without loss (JPEG-LS). The file is read back: the sum of every
    segment has to be equal and its weighted centroid may lie 0.1 mm off; else UserError, and no file is left.
    Returns None, without a file, where no class is probable anywhere.
    """
    stack = read_stack(source_files)
    frames = Fractions()
    infos = []
    for position, info in enumerate(labelled(seg.classes)):
        levels = np.rint(np.clip(chance(position), 0, 1) * 255).astype(np.uint8)
        if levels.any():
            infos.append(info)
            frames.add(len(infos), pictures_on(replace(seg, labels=levels, regions=None), stack), stack)
    if not infos:
        return None
    template = template_pixels((len(stack.slices), stack.first.rows, stack.first.columns), len(infos))
    made = _file(template, infos, stack, "FRACTIONAL", (algorithm, version))
    fill_fractions(made, frames, stack.slices)
    with atomic_path(path, suffix=".dcm") as part:
        made.save_as(part)
        require_same_fractions(part, frames, infos, path.name)
    return path


def _file(
    template: npt.NDArray[Any],
    infos: Sequence[ClassInfo],
    stack: Stack,
    kind: Kind,
    made_by: tuple[str, str],
) -> SegFile:
    """The header of a segmentation whose frames are put in later. made_by: algorithm and its version."""
    import highdicom as hd
    from highdicom.seg import Segmentation as SegFile

    algorithm, version = made_by
    if not version:
        from medseg import __version__ as version
    measures = _measures(stack)
    described = [_segment(info, number + 1, algorithm, version) for number, info in enumerate(infos)]
    try:
        # The library's remarks on a patient's name quote the name.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = SegFile(
                source_images=plain_pictures(stack, float(measures[0].SliceThickness)),
                pixel_array=template,
                segmentation_type=kind,
                segment_descriptions=described,
                series_instance_uid=hd.UID(),
                series_number=(stack.first.series_number or 0) % 1000 + 9000,
                sop_instance_uid=hd.UID(),
                instance_number=1,
                manufacturer="medseg",
                manufacturer_model_name=algorithm[:LONGEST_LABEL],
                software_versions=version,
                device_serial_number="0",
                pixel_measures=measures,
                content_label="SEGMENTATION",
                content_description="medseg",
                series_description=f"medseg {algorithm}"[:LONGEST_LABEL],
                transfer_syntax_uid=EXPLICIT_LITTLE if kind == "BINARY" else JPEG_LS_LOSSLESS,
            )
    except (AttributeError, ValueError, TypeError, KeyError) as err:
        raise UserError(
            f"the source series cannot carry a DICOM segmentation ({_plain(err)})",
            hint="its headers lack what the standard asks for; write nifti or nrrd instead",
        ) from err
    described_items = (item for item in made.SegmentSequence if int(item.SegmentNumber) > 0)
    for item, info in zip(described_items, infos):
        _add_side(item, info)
    # The library puts the first header's thickness and distance here, which may be wrong there.
    made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = measures
    refer_to(made, stack.slices)
    return made


def _measures(stack: Stack) -> Any:
    """Pixel spacing and slice distance; no distance is claimed for pictures that lie unevenly."""
    import highdicom as hd

    first, gaps = stack.first, np.diff(stack.places)
    even = len(gaps) and np.abs(gaps - gaps.mean()).max() < 0.01 * gaps.mean()
    distance = float(gaps.mean()) if even else None
    return hd.PixelMeasuresSequence(
        pixel_spacing=(first.row_spacing, first.column_spacing),
        slice_thickness=distance or first.thickness or (float(gaps.min()) if len(gaps) else 1.0),
        spacing_between_slices=distance,
    )


def _plain(err: Exception) -> str:
    """The library's reason without values of the header: only words that name attributes."""
    words = [w.strip("'\".,") for w in str(err).split()]
    names = [
        w for w in words if w[:1].isupper() and w.isalpha() and any(c.islower() for c in w) and len(w) > 5
    ]
    return f"{type(err).__name__}{': ' + ', '.join(dict.fromkeys(names)) if names else ''}"


def _segment(info: ClassInfo, number: int, algorithm: str, version: str) -> SegmentDescription:
    import highdicom as hd
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from highdicom.sr.coding import CodedConcept

    category = CodedConcept("123037004", "SCT", "Anatomical Structure")
    if info.code is None:
        kind = CodedConcept(f"C{info.index}", PRIVATE_SCHEME, info.name)
    else:
        kind = CodedConcept(info.code.value, info.code.scheme, long_string(info.code.meaning))
    lightness, a, b = to_cielab(info.colour)
    return SegmentDescription(
        segment_number=number,
        segment_label=info.name,
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=algorithm[:LONGEST_LABEL],
            version=version[:LONGEST_LABEL],
            family=CodedConcept("123110", "DCM", "Artificial Intelligence"),
        ),
        tracking_uid=hd.UID(),
        tracking_id=info.name,
        display_color=CIELabColor(lightness / 655.35, max(-128.0, a / 257 - 128), max(-128.0, b / 257 - 128)),
    )


def _add_side(item: Any, info: ClassInfo) -> None:
    """Says left or right by code as well: names are read by people, codes by programs."""
    if info.laterality is None:
        return
    from pydicom import Dataset
    from pydicom.sequence import Sequence as Items

    value, meaning = SIDES[info.laterality]
    side = Dataset()
    side.CodeValue, side.CodingSchemeDesignator, side.CodeMeaning = value, "SCT", meaning
    item.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = Items([side])
