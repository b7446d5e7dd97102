"""A structure set lies where the labels lay: contours with holes, specks and tilts come back voxel for voxel."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Code, Segmentation, default_colour, paint
from medseg.io.dicom import rtstruct as rtstruct_module
from medseg.io.dicom.contours import filled, outlines
from medseg.io.dicom.read import read_series
from medseg.io.dicom.read_rtstruct import read_rtstruct
from medseg.io.dicom.rtstruct import write_rtstruct
from medseg.io.dicom.write_series import write_ct_series
from medseg.io.doors import read_geometry, read_segmentation

CLASSES = (
    ClassInfo("left lung", 1, (230, 40, 40), Code("39607008", "SCT", "Lung"), "left"),
    ClassInfo("right lung", 4, (40, 230, 40), Code("39607008", "SCT", "Lung"), "right"),
    ClassInfo("nodule", 7, (40, 40, 230)),
)
SHAPE = (14, 12, 7)
SPACING = (0.8, 1.1, 2.5)
ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def phantom(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A tube with a hole in which something lies, a touching block of another class, and a speck."""
    labels = np.zeros(shape, np.uint8)
    labels[1:8, 2:9, 1:5] = 1
    labels[3:6, 4:7, 1:4] = 0
    labels[4, 5, 2] = 1
    labels[8:12, 3:6, 2:6] = 4
    labels[12, 9, 3] = 7
    return labels


def grid(shape, order=(0, 1, 2), signs=(1, 1, 1), degrees=0.0, tilt=0.0, spacing=SPACING) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs)):
        affine[world, axis] = sign * spacing[axis]
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ np.roll(turn, 1, axis=(0, 1)) @ affine[:3, :3]
    affine[:3, 2] += np.tan(np.radians(tilt)) * spacing[2] * affine[:3, 1] / spacing[1]
    affine[:3, 3] = (-20, 30, -100)
    return Geometry(shape, affine)


def case(
    folder: Path, geometry: Geometry, labels: np.ndarray | None = None
) -> tuple[Segmentation, list[Path]]:
    """A series whose grey values are ten times the labels, and the labels as read through the series."""
    labels = phantom(geometry.shape) if labels is None else labels
    files = write_ct_series(labels.astype(np.int16) * 10, geometry, folder)
    image = read_series(files)
    return Segmentation((image.array[0] // 10).astype(np.uint8), image.geometry, CLASSES), files


def by_hand(path: Path) -> dict[str, tuple[float, np.ndarray]]:
    """Area-weighted centroid in RAS mm and summed area in mm2 of every structure, by pydicom and the shoelace rule."""
    data = pydicom.dcmread(path)
    names = {int(s.ROINumber): str(s.ROIName) for s in data.StructureSetROISequence}
    out = {}
    for item in data.ROIContourSequence:
        total, moment = 0.0, np.zeros(3)
        for contour in item.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints >= 3
            following = np.roll(points, -1, axis=0)
            vectors = np.cross(points - points[0], following - points[0]) / 2
            normal = vectors.sum(axis=0) / np.linalg.norm(vectors.sum(axis=0))
            areas = vectors @ normal
            assert areas.sum() > 0
            total += areas.sum()
            moment += areas @ (points[0] + points + following) / 3
        out[names[int(item.ReferencedROINumber)]] = (total, moment / total * (-1, -1, 1))
    return out


@pytest.mark.parametrize(
    "place",
    [
        *[{"order": o, "signs": s} for o, s in ORDERS],
        {"degrees": 15},
        {"degrees": -33, "signs": (1, -1, -1)},
        {"tilt": 15},
        {"tilt": -15, "degrees": 20},
        {"spacing": (0.5, 0.5, 7.5)},
    ],
    ids=str,
)
def test_structures_keep_place_and_volume_in_every_orientation(tmp_path, place):
    geometry = grid(SHAPE, **place)
    seg, files = case(tmp_path, geometry)
    path = write_rtstruct(seg, files, tmp_path / "out.dcm")
    back = read_rtstruct(path, seg.geometry)
    for number, info in enumerate(CLASSES):
        np.testing.assert_array_equal(back.mask(number), seg.mask(number))
        meant = geometry.to_world(np.argwhere(phantom() == info.index).mean(axis=0))
        area, middle = by_hand(path)[info.name]
        # Cut corners weigh most where a thing is as small as its own corners.
        assert np.linalg.norm(middle - meant) < 0.1 * min(geometry.spacing)
        rows_columns = geometry.spacing[0] * geometry.spacing[1]
        assert area == pytest.approx(phantom().__eq__(info.index).sum() * rows_columns, abs=9 * rows_columns)


def test_random_masks_come_back_voxel_for_voxel():
    rng = np.random.default_rng(0)
    for _ in range(200):
        mask = rng.random(rng.integers(1, 24, 2)) < rng.random()
        rings = outlines(mask)
        assert all(len(ring) >= 4 for ring in rings)
        np.testing.assert_array_equal(filled(rings, mask.shape), mask)


def test_a_hole_is_joined_to_its_outline_by_a_channel_of_no_width(tmp_path):
    seg, files = case(tmp_path, grid(SHAPE))
    data = pydicom.dcmread(write_rtstruct(seg, files, tmp_path / "out.dcm"))
    lung = data.ROIContourSequence[0].ContourSequence
    assert {c.ContourGeometricType for c in lung} == {"CLOSED_PLANAR"}
    assert len(lung) == 5  # four slices, in one of which something lies inside the hole
    points = np.array(lung[0].ContourData, float).reshape(-1, 3)
    assert len(np.unique(points, axis=0)) == len(points) - 2  # the channel is walked twice


def test_an_outline_differs_from_its_mask_by_half_a_pixel_of_area():
    rows, columns = np.mgrid[:60, :60]
    disc = (rows - 30) ** 2 + (columns - 28) ** 2 < 400
    (ring,) = outlines(disc)
    following = np.roll(ring, -1, axis=0)
    area = abs((ring[:, 0] * following[:, 1] - ring[:, 1] * following[:, 0]).sum()) / 2
    assert area == pytest.approx(disc.sum() - 0.5)


def test_programs_find_colours_codes_names_and_references(tmp_path):
    seg, files = case(tmp_path, grid(SHAPE))
    data = pydicom.dcmread(
        write_rtstruct(seg, files, tmp_path / "out.dcm", algorithm="medseg 3d-u-net", version="9.9")
    )
    source = pydicom.dcmread(files[0])
    assert (data.Modality, data.StudyInstanceUID) == ("RTSTRUCT", source.StudyInstanceUID)
    assert (data.ManufacturerModelName, data.SoftwareVersions) == ("medseg 3d-u-net", "9.9")
    series = (
        data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    )
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    pictures = {str(item.ReferencedSOPInstanceUID) for item in series.ContourImageSequence}
    assert pictures == {str(pydicom.dcmread(f).SOPInstanceUID) for f in files}
    for number, info in enumerate(CLASSES):
        assert data.StructureSetROISequence[number].ROIName == info.name
        assert data.StructureSetROISequence[number].ROIGenerationAlgorithm == "AUTOMATIC"
        assert tuple(data.ROIContourSequence[number].ROIDisplayColor) == info.colour
        for contour in data.ROIContourSequence[number].ContourSequence:
            assert str(contour.ContourImageSequence[0].ReferencedSOPInstanceUID) in pictures
    kinds = [item.RTROIIdentificationCodeSequence[0] for item in data.RTROIObservationsSequence]
    assert [(k.CodeValue, k.CodingSchemeDesignator) for k in kinds] == [
        ("39607008", "SCT"), ("39607008", "SCT"), ("C7", "99MEDSEG")
    ]  # fmt: skip


def test_classes_that_overlap_keep_their_own_voxels(tmp_path):
    seg, files = case(tmp_path, grid(SHAPE))
    regions = np.stack([seg.labels == 1, seg.labels > 0, seg.labels == 7])
    overlapping = Segmentation(paint(regions, CLASSES), seg.geometry, CLASSES, regions)
    back = read_rtstruct(write_rtstruct(overlapping, files, tmp_path / "out.dcm"), seg.geometry)
    np.testing.assert_array_equal(back.regions, regions)
    assert any("overlap" in note for note in back.provenance["notes"])


def test_contours_of_a_series_with_a_hole_stay_on_the_pictures_that_are_there(tmp_path):
    seg, files = case(tmp_path, grid((14, 12, 12)))
    kept = [f for n, f in enumerate(files) if n != 3]
    image = read_series(kept, irregular="resample")
    path = write_rtstruct(Segmentation(seg.labels, image.geometry, CLASSES), kept, tmp_path / "o.dcm")
    data = pydicom.dcmread(path)
    used = {str(c.ContourImageSequence[0].ReferencedSOPInstanceUID)
            for item in data.ROIContourSequence for c in item.ContourSequence}  # fmt: skip
    assert used <= {str(pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID) for f in kept}
    assert any("slices between its contours have none" in note
               for note in read_rtstruct(path, image.geometry).provenance["notes"])  # fmt: skip


@pytest.mark.parametrize(("slices", "spacing"), [(1, SPACING), (2, (0.5, 0.5, 7.5))])
def test_one_and_two_slices_are_written_and_read(tmp_path, slices, spacing):
    labels = phantom()[..., 2 : 2 + slices]
    seg, files = case(tmp_path, grid((14, 12, slices), spacing=spacing), labels)
    back = read_rtstruct(write_rtstruct(seg, files, tmp_path / "o.dcm"), seg.geometry)
    for number in range(len(back.classes)):
        name = back.classes[number].name
        at = next(n for n, info in enumerate(CLASSES) if info.name == name)
        np.testing.assert_array_equal(back.mask(number), seg.mask(at))


def test_empty_classes_are_left_out_and_an_empty_result_is_refused(tmp_path):
    labels = np.where(phantom() == 4, 0, phantom()).astype(np.uint8)
    seg, files = case(tmp_path, grid(SHAPE), labels)
    back = read_segmentation(write_rtstruct(seg, files, tmp_path / "o.dcm"), CLASSES, seg.geometry)
    np.testing.assert_array_equal(back.labels, seg.labels)
    nothing = Segmentation(np.zeros_like(seg.labels), seg.geometry, CLASSES)
    with pytest.raises(UserError, match="a structure set cannot be empty"):
        write_rtstruct(nothing, files, tmp_path / "none.dcm")
    assert not (tmp_path / "none.dcm").exists()


def test_a_multi_frame_source_is_refused_with_a_way_out(shared_data, tmp_path):
    source = shared_data / "misc_dicom" / "enhanced" / "legacy_enhanced_ct_23x38x3.dcm"
    image = read_series([source])
    labels = np.ones(image.geometry.shape, np.uint8)
    with pytest.raises(UserError, match="write dicom_seg instead"):
        write_rtstruct(Segmentation(labels, image.geometry, CLASSES[:1]), [source], tmp_path / "o.dcm")


def test_what_comes_back_elsewhere_or_smaller_is_not_kept(tmp_path, monkeypatch):
    seg, files = case(tmp_path, grid(SHAPE))
    honest = rtstruct_module._contour

    def moved(points, one, number):
        return honest(np.add(points, (0.9, 0, 0)), one, number)

    def shrunk(points, one, number):
        middle = points.mean(axis=0)
        return honest(middle + 0.6 * (points - middle), one, number)

    for damage in (moved, shrunk):
        monkeypatch.setattr(rtstruct_module, "_contour", damage)
        with pytest.raises(UserError, match=r"came back with a Dice of 0\.\d+, [\d.]+ mm from its place"):
            write_rtstruct(seg, files, tmp_path / "o.dcm")
        assert [p.name for p in tmp_path.iterdir() if "slice" not in p.name] == []


def test_a_structure_set_beside_its_series_is_read_without_naming_the_series(tmp_path):
    seg, files = case(tmp_path / "study" / "ct", grid(SHAPE))
    path = write_rtstruct(seg, files, tmp_path / "study" / "rt.dcm")
    assert read_geometry(path).same_grid(seg.geometry)
    np.testing.assert_array_equal(read_segmentation(path, CLASSES).labels, seg.labels)
    alone = shutil.copy(path, tmp_path / "alone.dcm")
    shutil.rmtree(tmp_path / "study")
    with pytest.raises(UserError, match="refers to 7 pictures of 1 series; no series beside it"):
        read_segmentation(Path(alone), CLASSES)


def test_another_axis_order_of_the_same_grid_is_filled_as_well(tmp_path):
    seg, files = case(tmp_path, grid(SHAPE, (2, 0, 1), (-1, 1, -1)))
    turned, order, flips = seg.geometry.reoriented()
    from medseg.core.geometry import reorient_array

    back = read_segmentation(write_rtstruct(seg, files, tmp_path / "o.dcm"), CLASSES, turned)
    np.testing.assert_array_equal(back.labels, reorient_array(seg.labels, order, flips))


def foreign(path: Path, contours: list[tuple[str, list[tuple[float, float, float]]]]) -> Path:
    """A structure set of another program: one structure, contours in LPS mm."""
    data, roi, drawn = Dataset(), Dataset(), Dataset()
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.3"
    data.Modality = "RTSTRUCT"
    roi.ROINumber, roi.ROIName = 5, "CANARY organ"
    drawn.ReferencedROINumber, items = 5, []
    for kind, points in contours:
        item = Dataset()
        item.ContourGeometricType, item.NumberOfContourPoints = kind, len(points)
        item.ContourData = [f"{v:.3f}" for point in points for v in point]
        items.append(item)
    drawn.ContourSequence = Items(items)
    data.StructureSetROISequence, data.ROIContourSequence = Items([roi]), Items([drawn])
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    data.save_as(path, enforce_file_format=True)
    return path


def box(low: float, high: float, z: float = 0.0) -> list[tuple[float, float, float]]:
    return [(low, low, z), (high, low, z), (high, high, z), (low, high, z)]


LPS_GRID = Geometry((20, 20, 3), np.diag([-1.0, -1.0, 2.0, 1.0]))


@pytest.mark.parametrize(
    ("contours", "voxels"),
    [
        ([box(1.5, 9.5)], 64),
        ([box(1.5, 9.5), box(3.5, 6.5)], 64 - 9),
        ([box(1.5, 9.5), box(3.5, 7.5), box(4.5, 6.5)], 64 - 16 + 4),
        ([box(1.5, 9.5), box(1.5, 9.5)], 64),
        ([box(1.5, 5.5), box(9.5, 12.5)], 16 + 9),
    ],
    ids=["one", "hole", "island in a hole", "drawn twice", "two parts"],
)
@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_holes_and_islands_of_other_programs_are_understood(tmp_path, contours, voxels, kind):
    path = foreign(tmp_path / "f.dcm", [(kind, points) for points in contours])
    seg = read_rtstruct(path, LPS_GRID)
    assert int(seg.labels.sum()) == voxels
    assert seg.provenance["notes"] == ()


def test_contours_that_overlap_in_part_are_joined_with_a_note(tmp_path):
    path = foreign(tmp_path / "f.dcm", [("CLOSED_PLANAR", box(1.5, 5.5)), ("CLOSED_PLANAR", box(3.5, 8.5))])
    seg = read_rtstruct(path, LPS_GRID)
    assert int(seg.labels.sum()) == 16 + 25 - 4
    assert any(
        "overlap others of their slice in part; they were joined" in n for n in seg.provenance["notes"]
    )


def test_points_and_lines_are_counted_and_left_out(tmp_path):
    path = foreign(tmp_path / "f.dcm", [("POINT", [(1, 1, 0)]), ("CLOSED_PLANAR", [(1, 1, 0), (4, 4, 0)]),
                                        ("CLOSED_PLANAR", box(1.5, 9.5))])  # fmt: skip
    seg = read_rtstruct(path, LPS_GRID)
    assert int(seg.labels.sum()) == 64
    assert seg.provenance["notes"] == ("structure 1: 2 points or open lines left out",)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (box(1.5, 9.5, z=0.8), "lies 0.80 mm beside the nearest slice"),
        (box(1.5, 9.5, z=40.0), "lies 36.00 mm beside the nearest slice|lies outside the images"),
        (box(100.5, 109.5), "lies outside the images"),
        ([(1, 1, 0), (9, 1, 0), (9, 9, 3), (1, 9, 3)], "do not lie in the slices of the images"),
    ],
    ids=["between slices", "above", "beside", "oblique"],
)
def test_contours_of_other_images_are_refused(tmp_path, points, message):
    with pytest.raises(UserError, match=message) as caught:
        read_rtstruct(foreign(tmp_path / "f.dcm", [("CLOSED_PLANAR", points)]), LPS_GRID)
    assert "CANARY" not in str(caught.value)


def test_files_that_are_no_structure_set_are_refused(tmp_path):
    seg, files = case(tmp_path / "s", grid(SHAPE))
    with pytest.raises(UserError, match="is a DICOM file but no structure set"):
        read_rtstruct(files[0], seg.geometry)
    bare = foreign(tmp_path / "f.dcm", [])
    data = pydicom.dcmread(bare)
    del data.StructureSetROISequence
    data.save_as(bare)
    with pytest.raises(UserError, match="is a structure set without structures"):
        read_rtstruct(bare, seg.geometry)


@pytest.mark.parametrize("name", ["rtstruct_dummy", "rtstruct_invalid_reference", "rtstruct_small"])
def test_structure_sets_whose_images_are_elsewhere_say_so(shared_data, name):
    with pytest.raises(
        UserError, match=r"refers to \d+ pictures of 1 series; no series beside it is one of them"
    ):
        read_segmentation(shared_data / "misc_dicom" / "rt" / f"{name}.dcm")


def test_a_hundred_structures_come_back_equal(tmp_path):
    shape, rng = (40, 40, 16), np.random.default_rng(0)
    labels = np.zeros(shape, np.uint8)
    for number in range(1, 101):
        x, y, z = rng.integers(0, 32), rng.integers(0, 32), rng.integers(0, 12)
        labels[x : x + 8, y : y + 8, z : z + 4] = number
    classes = tuple(ClassInfo(f"c{n}", n, default_colour(n)) for n in range(1, 101))
    geometry = Geometry(shape, np.diag([-1.0, -1.0, 1.0, 1.0]))
    files = write_ct_series(labels.astype(np.int16), geometry, tmp_path)
    seg = Segmentation(labels, geometry, classes)
    back = read_segmentation(write_rtstruct(seg, files, tmp_path / "o.dcm"), classes, geometry)
    np.testing.assert_array_equal(back.labels, labels)
