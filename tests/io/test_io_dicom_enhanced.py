"""Enhanced files of one frame each, and headers of pictures that the writer of segmentations has to get along with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence as Items

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.io.dicom.read import read_series
from medseg.io.dicom.read_seg import place_on, read_seg
from medseg.io.dicom.rtstruct import write_rtstruct
from medseg.io.dicom.scan import scan
from medseg.io.dicom.seg import write_seg
from medseg.io.dicom.write_series import write_ct_series

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
SHAPE = (9, 11, 6)
PLACED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SliceLocation",
          "RescaleSlope", "RescaleIntercept")  # fmt: skip


def item(**values: object) -> Items:
    found = Dataset()
    for name, value in values.items():
        setattr(found, name, value)
    return Items([found])


def enhance(file: Path, shared: bool = True, number: int = 0) -> None:
    """Makes a plain CT picture an Enhanced file of one frame, in place; odd pictures get another slope."""
    picture = pydicom.dcmread(file)
    own, common = Dataset(), Dataset()
    own.PlanePositionSequence = item(ImagePositionPatient=picture.ImagePositionPatient)
    own.FrameContentSequence = item(DimensionIndexValues=[1], StackID="1")
    place = common if shared else own
    place.PlaneOrientationSequence = item(ImageOrientationPatient=picture.ImageOrientationPatient)
    place.PixelMeasuresSequence = item(
        PixelSpacing=picture.PixelSpacing, SliceThickness=picture.SliceThickness
    )
    place.PixelValueTransformationSequence = item(
        RescaleSlope=picture.RescaleSlope + number % 2,
        RescaleIntercept=picture.RescaleIntercept,
        RescaleType="HU",
    )
    for name in PLACED:
        if name in picture:
            delattr(picture, name)
    picture.SOPClassUID = picture.file_meta.MediaStorageSOPClassUID = ENHANCED_CT
    picture.NumberOfFrames = 1
    picture.SharedFunctionalGroupsSequence = Items([common])
    picture.PerFrameFunctionalGroupsSequence = Items([own])
    picture.save_as(file)


def series(folder: Path, compress: bool = False) -> tuple[list[Path], np.ndarray, Geometry]:
    array = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    affine = np.array([[-0.8, 0, 0, 10], [0, 0, 2.5, 20], [0, 0.9, 0, -30], [0, 0, 0, 1.0]])
    geometry = Geometry(SHAPE, affine)
    return write_ct_series(array, geometry, folder, compress=compress), array, geometry


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_enhanced_files_of_one_frame_form_a_volume(tmp_path, compress, shared):
    files, array, geometry = series(tmp_path / "s", compress)
    for number, file in enumerate(files):
        enhance(file, shared, number)
    found, left = scan(tmp_path)
    assert [one.n_slices for one in found] == [6]
    assert not left
    assert not found[0].facts["conflict"]
    image = read_series(sorted(files, reverse=True))
    wanted = array.astype(np.int32)
    wanted[:, :, 1::2] = 2 * (wanted[:, :, 1::2] + 1024) - 1024
    on = place_on(Segmentation(image.array[0].astype(np.int32) + 5000, image.geometry, ()), geometry)
    np.testing.assert_array_equal(on.labels - 5000, wanted)
    assert image.modality == "CT"
    assert "each slice was rescaled by its own" in " ".join(image.notes)


def test_an_enhanced_file_of_one_frame_is_a_copy_only_with_equal_values(tmp_path):
    files, *_ = series(tmp_path / "s")
    for file in files:
        enhance(file)
    copy = pydicom.dcmread(files[2])
    copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = "2.25.99"
    copy.save_as(tmp_path / "s" / "again.dcm")
    assert read_series([*files, tmp_path / "s" / "again.dcm"]).geometry.shape == SHAPE
    copy.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleIntercept = 7
    copy.save_as(tmp_path / "s" / "again.dcm")
    with pytest.raises(UserError, match="2 different pictures at one place"):
        read_series([*files, tmp_path / "s" / "again.dcm"])


def test_an_enhanced_file_of_one_frame_without_a_place_is_left_out_for_that(tmp_path):
    files, *_ = series(tmp_path)
    enhance(files[0])
    picture = pydicom.dcmread(files[0])
    del picture.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    picture.save_as(files[0])
    assert [one.reason for one in scan(tmp_path)[1]] == ["no position and orientation in space"]


def test_masks_are_written_on_enhanced_files_of_one_frame(tmp_path):
    files, *_ = series(tmp_path / "s")
    for file in files:
        enhance(file)
    image = read_series(files)
    labels = np.zeros(image.geometry.shape, np.uint8)
    labels[2:5, 3:9, 1:4] = 1
    seg = Segmentation(labels, image.geometry, (ClassInfo("liver", 1, (1, 2, 3)),))
    path = write_seg(seg, files, tmp_path / "o.dcm")
    np.testing.assert_array_equal(place_on(read_seg(path), image.geometry).labels, labels)
    written = pydicom.dcmread(path)
    named = written.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {str(one.ReferencedSOPClassUID) for one in named} == {ENHANCED_CT}
    assert len({one.ReferencedSOPInstanceUID for one in named}) == 6
    source = written.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert source.ReferencedSOPClassUID == ENHANCED_CT
    assert "ReferencedFrameNumber" not in source
    assert write_rtstruct(seg, files, tmp_path / "r.dcm").is_file()


@pytest.mark.parametrize("spoil", ["no thickness", "directions", "distance"])
def test_a_segmentation_says_the_true_distance_whatever_the_first_header_says(tmp_path, spoil):
    files, *_ = series(tmp_path / "s")
    for number, file in enumerate(files):
        picture = pydicom.dcmread(file)
        if spoil == "no thickness":
            del picture.SliceThickness
        elif spoil == "directions":  # scanners round them picture by picture
            values = [float(v) for v in picture.ImageOrientationPatient]
            picture.ImageOrientationPatient = [values[0], values[1] + number * 1e-6, *values[2:]]
        else:
            picture.SpacingBetweenSlices, picture.SliceThickness = -8, 5
        picture.save_as(file)
    image = read_series(files)
    labels = np.zeros(image.geometry.shape, np.uint8)
    labels[2:5, 3:9, 1:4] = 1
    seg = Segmentation(labels, image.geometry, (ClassInfo("liver", 1, (1, 2, 3)),))
    written = pydicom.dcmread(write_seg(seg, files, tmp_path / "o.dcm"))
    measures = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (float(measures.SliceThickness), float(measures.SpacingBetweenSlices)) == (2.5, 2.5)
    assert [float(v) for v in measures.PixelSpacing] == [0.9, 0.8]


def test_a_multi_frame_file_whose_frames_turn_singly_carries_a_segmentation(tmp_path):
    """Siemens puts the direction into every frame's own group; the file is referred to once, frame by frame."""
    files, *_ = series(tmp_path / "s")
    for file in files:
        enhance(file, shared=False)
    pictures = [pydicom.dcmread(file) for file in files]
    whole = pictures[0]
    whole.PerFrameFunctionalGroupsSequence = Items([p.PerFrameFunctionalGroupsSequence[0] for p in pictures])
    whole.NumberOfFrames = len(pictures)
    whole.PixelData = b"".join(p.PixelData[: 9 * 11 * 2] for p in pictures)
    path = tmp_path / "whole.dcm"
    whole.save_as(path)
    image = read_series([path])
    labels = np.zeros(image.geometry.shape, np.uint8)
    labels[2:5, 3:9, 1:4] = 1
    seg = Segmentation(labels, image.geometry, (ClassInfo("liver", 1, (1, 2, 3)),))
    written = pydicom.dcmread(write_seg(seg, [path], tmp_path / "o.dcm"))
    assert len(written.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1
    frames = [
        one.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for one in written.PerFrameFunctionalGroupsSequence
    ]
    assert len(set(frames)) == 3


@pytest.mark.parametrize("placed", [True, False])
def test_tomosynthesis_is_a_volume_and_no_film(tmp_path, placed):
    """Its modality is that of a mammogram; where its frames have no place it is refused for that."""
    files, array, geometry = series(tmp_path / "s")
    tomo, frames = pydicom.dcmread(files[0]), []
    for file in files:
        enhance(file, shared=False)
        frames.append(pydicom.dcmread(file).PerFrameFunctionalGroupsSequence[0])
        if not placed:
            del frames[-1].PlanePositionSequence
    for name in PLACED:
        if name in tomo:
            delattr(tomo, name)
    tomo.SOPClassUID = tomo.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.13.1.3"
    tomo.Modality, tomo.NumberOfFrames = "MG", len(frames)
    tomo.SharedFunctionalGroupsSequence = Items([Dataset()])
    tomo.PerFrameFunctionalGroupsSequence = Items(frames)
    tomo.PixelData = b"".join(pydicom.dcmread(file).PixelData for file in files)
    path = tmp_path / "tomo.dcm"
    tomo.save_as(path)
    if not placed:
        with pytest.raises(UserError, match="no position and orientation in space"):
            read_series([path])
        return
    image = read_series([path])
    assert (image.modality, image.geometry.unit) == ("MG", "mm")
    on = place_on(Segmentation(image.array[0].astype(np.int32) + 5000, image.geometry, ()), geometry)
    np.testing.assert_array_equal(on.labels - 5000, array)
