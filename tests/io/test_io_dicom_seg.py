"""A DICOM segmentation lies where the labels lay, says what it is, and is not kept when it does not."""

from __future__ import annotations

import itertools
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Code, Segmentation, default_colour, paint
from medseg.io.dicom import seg as seg_module
from medseg.io.dicom.colour import to_cielab, to_rgb
from medseg.io.dicom.read import read_series
from medseg.io.dicom.read_seg import in_classes, place_on, read_seg
from medseg.io.dicom.seg import empty_classes, write_seg
from medseg.io.dicom.write_series import write_ct_series
from medseg.io.doors import read_geometry, read_segmentation

CLASSES = (
    ClassInfo("left lung", 1, (230, 40, 40), Code("39607008", "SCT", "Lung"), "left"),
    ClassInfo("right lung", 4, (40, 230, 40), Code("39607008", "SCT", "Lung"), "right"),
    ClassInfo("nodule", 7, (40, 40, 230)),
)
HU_OF = {0: -900, 1: 50, 4: 300, 7: 700}
RAS_LPS = np.array([-1.0, -1.0, 1.0])


def asymmetric(shape: tuple[int, int, int] = (8, 10, 7)) -> np.ndarray:
    labels = np.zeros(shape, np.uint8)
    labels[1:3, 2:8, 1:4] = 1
    labels[4:7, 1:3, 2:6] = 4
    labels[5, 8, 4] = 7
    return labels


def grid(shape, order=(0, 1, 2), signs=(1, 1, 1), degrees: float = 0.0, tilt: float = 0.0) -> Geometry:
    spacing, affine = (0.8, 1.1, 2.5), np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs)):
        affine[world, axis] = sign * spacing[axis]
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ np.roll(turn, 1, axis=(0, 1)) @ affine[:3, :3]
    affine[:3, 2] += np.tan(np.radians(tilt)) * 2.5 * affine[:3, 1] / 1.1
    affine[:3, 3] = (-20, 30, -100)
    return Geometry(shape, affine)


def case(
    folder: Path, geometry: Geometry, labels: np.ndarray | None = None
) -> tuple[Segmentation, list[Path]]:
    """A series whose grey values tell the label of each voxel, and the labels as read through the series."""
    labels = asymmetric() if labels is None else labels
    hu = np.vectorize(HU_OF.get)(labels).astype(np.int16)
    files = write_ct_series(hu, geometry, folder)
    image = read_series(files)
    read = np.zeros(image.array.shape[1:], np.uint8)
    for value, number in HU_OF.items():
        read[image.array[0] == number] = value
    return Segmentation(read, image.geometry, CLASSES), files


def facts_ras(mask: np.ndarray, geometry: Geometry) -> tuple[int, np.ndarray]:
    return int(mask.sum()), geometry.to_world(np.array(np.nonzero(mask)).mean(axis=1))


def by_hand(path: Path) -> dict[str, tuple[int, np.ndarray]]:
    """Voxels and centroid in RAS mm of every segment, by pydicom alone and frame by frame."""
    data = pydicom.dcmread(path)
    shared = data.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    rows_mm, columns_mm = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    frames = data.pixel_array.reshape(-1, data.Rows, data.Columns)
    points: dict[int, list[np.ndarray]] = {}
    for frame, groups in zip(frames, data.PerFrameFunctionalGroupsSequence):
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        number = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for row, column in zip(*np.nonzero(frame)):
            where = position + orientation[:3] * columns_mm * column + orientation[3:] * rows_mm * row
            points.setdefault(number, []).append(where * RAS_LPS)
    names = {int(s.SegmentNumber): str(s.SegmentLabel) for s in data.SegmentSequence}
    return {names[n]: (len(p), np.mean(p, axis=0)) for n, p in points.items()}


def by_highdicom(path: Path) -> dict[str, tuple[int, np.ndarray]]:
    """The same by highdicom's own volumes and affine."""
    data = hd.seg.segread(path)
    out = {}
    for number in data.segment_numbers:
        volume = data.get_volume(segment_numbers=[number], combine_segments=True, relabel=False)
        index = np.array(np.nonzero(volume.array == number))
        world = (volume.affine @ np.append(index.mean(axis=1), 1.0))[:3] * RAS_LPS
        out[data.get_segment_description(number).segment_label] = (index.shape[1], world)
    return out


ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


@pytest.mark.parametrize(
    "place",
    [*[{"order": o, "signs": s} for o, s in ORDERS], {"degrees": 15}, {"degrees": -33, "signs": (1, -1, -1)}],
    ids=str,
)
def test_labels_keep_place_and_volume_through_two_readers_of_others(tmp_path, place):
    labels, geometry = asymmetric(), grid((8, 10, 7), **place)
    seg, files = case(tmp_path, geometry, labels)
    path = write_seg(seg, files, tmp_path / "out.dcm")
    for reader in (by_hand, by_highdicom):
        found = reader(path)
        for info in CLASSES:
            count, centre = facts_ras(labels == info.index, geometry)
            assert found[info.name][0] == count
            assert np.linalg.norm(found[info.name][1] - centre) < 0.1
    back = place_on(read_seg(path), seg.geometry)
    assert back.geometry.same_grid(seg.geometry)
    for number, info in enumerate(CLASSES):
        np.testing.assert_array_equal(back.mask(number), seg.labels == info.index)


def test_a_tilted_series_gets_one_frame_a_source_slice_and_keeps_its_volume(tmp_path):
    geometry = grid((8, 10, 7), tilt=15)
    seg, files = case(tmp_path, geometry)
    path = write_seg(seg, files, tmp_path / "out.dcm")
    for name, (count, centre) in by_hand(path).items():
        info = next(c for c in CLASSES if c.name == name)
        meant, place = facts_ras(asymmetric() == info.index, geometry)
        assert count == meant
        assert np.linalg.norm(centre - place) < 0.1
    header = pydicom.dcmread(path)
    used = {str(i.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
            for i in header.PerFrameFunctionalGroupsSequence}  # fmt: skip
    assert len(used) == np.count_nonzero(asymmetric().any(axis=(0, 1)))


@pytest.mark.parametrize("shape", [(8, 10, 7), (7, 9, 7), (5, 11, 7)], ids=str)
def test_frames_that_do_not_end_on_a_byte_are_read_by_others(tmp_path, shape):
    labels = np.random.default_rng(0).choice([0, 1, 4, 7], shape).astype(np.uint8)
    seg, files = case(tmp_path, grid(shape), labels)
    path = write_seg(seg, files, tmp_path / "out.dcm")
    for reader in (by_hand, by_highdicom):
        assert {name: found[0] for name, found in reader(path).items()} == {
            info.name: int((labels == info.index).sum()) for info in CLASSES
        }


def test_viewers_find_colour_codes_algorithm_and_references(tmp_path):
    seg, files = case(tmp_path, grid((8, 10, 7)))
    data = pydicom.dcmread(
        write_seg(seg, files, tmp_path / "out.dcm", algorithm="medseg 3d-u-net", version="9.9")
    )
    source = pydicom.dcmread(files[0])
    assert data.SegmentationType == "BINARY"
    assert data.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert data.StudyInstanceUID == source.StudyInstanceUID
    assert data.SeriesInstanceUID != source.SeriesInstanceUID
    references = data.ReferencedSeriesSequence[0]
    assert references.SeriesInstanceUID == source.SeriesInstanceUID
    assert len(references.ReferencedInstanceSequence) == len(files)
    for item, info in zip(data.SegmentSequence, CLASSES):
        assert to_rgb(item.RecommendedDisplayCIELabValue) == info.colour
        assert item.SegmentLabel == info.name
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("medseg 3d-u-net", "9.9")
        assert item.SegmentedPropertyCategoryCodeSequence[0].CodingSchemeDesignator == "SCT"
        assert item.TrackingUID
    kind = data.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("39607008", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    private = data.SegmentSequence[2].SegmentedPropertyTypeCodeSequence[0]
    assert (private.CodingSchemeDesignator, private.CodeMeaning) == ("99MEDSEG", "nodule")


def test_classes_come_back_with_names_colours_codes_and_sides(tmp_path):
    seg, files = case(tmp_path, grid((8, 10, 7)))
    path = write_seg(seg, files, tmp_path / "out.dcm")
    found = read_seg(path).classes
    assert [(c.name, c.colour, c.laterality) for c in found] == [
        (c.name, c.colour, c.laterality) for c in CLASSES
    ]
    assert found[0].code == CLASSES[0].code
    back = read_segmentation(path, CLASSES, onto=seg.geometry)
    np.testing.assert_array_equal(back.labels, seg.labels)
    assert back.classes == CLASSES


def test_segments_are_matched_by_code_and_side_where_names_differ(tmp_path):
    seg, files = case(
        tmp_path, grid((8, 10, 7)), np.where(asymmetric() == 7, 0, asymmetric()).astype(np.uint8)
    )
    found = read_seg(write_seg(seg, files, tmp_path / "out.dcm"))
    wanted = (
        ClassInfo("poumon droit", 2, (1, 1, 1), Code("39607008", "SCT", "Lung"), "right"),
        ClassInfo("poumon gauche", 9, (1, 1, 1), Code("39607008", "SCT", "Lung"), "left"),
    )
    back = in_classes(place_on(found, seg.geometry), wanted)
    np.testing.assert_array_equal(back.labels == 9, seg.labels == 1)
    np.testing.assert_array_equal(back.labels == 2, seg.labels == 4)
    with pytest.raises(UserError, match="has segments that are none of the classes: left lung, right lung"):
        in_classes(found, (ClassInfo("liver", 1, (1, 1, 1)),))


def test_classes_that_overlap_keep_their_own_voxels(tmp_path):
    seg, files = case(tmp_path, grid((8, 10, 7)))
    regions = np.stack([seg.labels == 1, seg.labels > 0, seg.labels == 7])
    overlapping = Segmentation(paint(regions, CLASSES), seg.geometry, CLASSES, regions)
    path = write_seg(overlapping, files, tmp_path / "out.dcm")
    back = place_on(read_seg(path), seg.geometry)
    assert back.regions is not None
    np.testing.assert_array_equal(back.regions, regions)
    assert {name: found[0] for name, found in by_hand(path).items()} == {
        info.name: int(region.sum()) for info, region in zip(CLASSES, regions)
    }


def test_empty_classes_are_left_out_and_named_and_an_empty_result_is_refused(tmp_path):
    seg, files = case(
        tmp_path, grid((8, 10, 7)), np.where(asymmetric() == 4, 0, asymmetric()).astype(np.uint8)
    )
    assert empty_classes(seg) == ("right lung",)
    path = write_seg(seg, files, tmp_path / "out.dcm")
    assert [c.name for c in read_seg(path).classes] == ["left lung", "nodule"]
    np.testing.assert_array_equal(read_segmentation(path, CLASSES, seg.geometry).labels, seg.labels)
    nothing = Segmentation(np.zeros_like(seg.labels), seg.geometry, CLASSES)
    with pytest.raises(UserError, match="no class has a voxel"):
        write_seg(nothing, files, tmp_path / "none.dcm")
    assert not (tmp_path / "none.dcm").exists()


def test_a_segmentation_of_another_grid_is_refused_with_both_grids(tmp_path):
    seg, files = case(tmp_path, grid((8, 10, 7)))
    moved = np.array(seg.geometry.affine)
    moved[0, 3] += 3.3
    with pytest.raises(UserError, match=r"the segmentation and the source series are 3.30 mm apart"):
        write_seg(
            Segmentation(seg.labels, Geometry(seg.geometry.shape, moved), CLASSES), files, tmp_path / "o.dcm"
        )
    assert not (tmp_path / "o.dcm").exists()


def test_a_file_that_comes_back_flipped_or_thinned_is_not_kept(tmp_path, monkeypatch):
    seg, files = case(tmp_path, grid((8, 10, 7)))
    honest = seg_module.read_seg

    def flipped(path):
        back = honest(path)
        return Segmentation(back.labels[:, ::-1], back.geometry, back.classes)

    def thinned(path):
        back = honest(path)
        labels = back.labels.copy()
        labels[tuple(np.argwhere(labels == 1)[0])] = 0
        return Segmentation(labels, back.geometry, back.classes)

    for reader, message in (
        (flipped, r"came back [\d.]+ mm from its place"),
        (thinned, "36 voxels were meant, 35"),
    ):
        monkeypatch.setattr(seg_module, "read_seg", reader)
        with pytest.raises(UserError, match=message):
            write_seg(seg, files, tmp_path / "o.dcm")
        assert [p.name for p in tmp_path.iterdir() if "slice" not in p.name] == []


def test_frames_of_a_resampled_series_stay_on_the_source_slices(tmp_path):
    labels = np.zeros((8, 10, 12), np.uint8)
    labels[2:6, 3:7, 2:10] = 1
    seg, files = case(tmp_path, grid((8, 10, 12)), labels)
    kept = [f for n, f in enumerate(files) if n != 5]
    image = read_series(kept, irregular="resample")
    assert image.geometry.same_grid(seg.geometry)
    path = write_seg(Segmentation(seg.labels, image.geometry, CLASSES), kept, tmp_path / "o.dcm")
    data = pydicom.dcmread(path)
    sources = {str(pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID) for f in kept}
    used = [str(i.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
            for i in data.PerFrameFunctionalGroupsSequence]  # fmt: skip
    assert len(used) == 7
    assert set(used) <= sources


def test_a_multi_frame_source_is_referenced_frame_by_frame(shared_data, tmp_path):
    source = shared_data / "misc_dicom" / "enhanced" / "legacy_enhanced_ct_23x38x3.dcm"
    image = read_series([source])
    labels = np.zeros(image.geometry.shape, np.uint8)
    labels[3:9, 4:20, 1:] = 1
    seg = Segmentation(labels, image.geometry, CLASSES[:1])
    path = write_seg(seg, [source], tmp_path / "o.dcm")
    back = place_on(read_seg(path), image.geometry)
    np.testing.assert_array_equal(back.labels, labels)
    assert by_hand(path)["left lung"][0] == int(labels.sum())


def test_colours_agree_with_another_library():
    for rgb in [(0, 0, 0), (255, 255, 255), (230, 40, 40), (12, 200, 99), (1, 2, 250)]:
        oracle = hd.color.CIELabColor.from_rgb(*rgb).value
        assert np.abs(np.array(to_cielab(rgb), int) - np.array(oracle, int)).max() <= 40
        assert to_rgb(to_cielab(rgb)) == rgb


@pytest.mark.parametrize("name", ["liver", "nodule"])
def test_a_grid_is_known_from_the_file_alone(tmp_path, name):
    seg, files = case(tmp_path, grid((8, 10, 7)))
    path = write_seg(seg, files, tmp_path / f"{name}.dcm")
    assert read_geometry(path).shape[:2] == (8, 10)


def test_a_hundred_classes_come_back_equal(tmp_path):
    shape, rng = (40, 40, 16), np.random.default_rng(0)
    labels = np.zeros(shape, np.uint8)
    for number in range(1, 101):
        x, y, z = rng.integers(0, 32), rng.integers(0, 32), rng.integers(0, 12)
        labels[x : x + 8, y : y + 8, z : z + 4] = number
    classes = tuple(ClassInfo(f"c{n}", n, default_colour(n)) for n in range(1, 101))
    geometry = Geometry(shape, np.diag([-1.0, -1.0, 1.0, 1.0]))
    files = write_ct_series(labels.astype(np.int16), geometry, tmp_path)
    seg = Segmentation(labels, geometry, classes)
    back = read_segmentation(write_seg(seg, files, tmp_path / "o.dcm"), classes, geometry)
    np.testing.assert_array_equal(back.labels, labels)


def test_numbers_of_pictures_that_were_emptied_are_taken_from_the_preamble_or_asked_for(tmp_path):
    geometry = grid((8, 10, 7))
    seg, files = case(tmp_path / "series", geometry)
    uids = set()
    for file in files:
        picture = pydicom.dcmread(file)
        uids.add(picture.SOPInstanceUID)
        picture.SOPInstanceUID = picture.SOPClassUID = ""
        picture.save_as(file, enforce_file_format=False)
    written = pydicom.dcmread(write_seg(seg, files, tmp_path / "seg.dcm"))
    named = {
        one.ReferencedSOPInstanceUID for one in written.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert named == uids
    picture = pydicom.dcmread(files[0])
    picture.file_meta.MediaStorageSOPInstanceUID = ""
    picture.save_as(files[0], enforce_file_format=False)
    with pytest.raises(
        UserError, match="a picture has no SOPInstanceUID, so a DICOM segmentation could not refer"
    ):
        write_seg(seg, files, tmp_path / "seg.dcm")
