"""A DICOM series becomes one volume where it is one: in place, in HU, in any order of files; else a sentence."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.io.dicom.read import read_series, read_series_geometry
from medseg.io.dicom.scan import scan
from medseg.io.dicom.stacks import IrregularSeries
from medseg.io.dicom.write_series import SeriesFacts, write_ct_series
from medseg.io.doors import content_hash, read_geometry, read_image
from medseg.io.layout import DOUBTS

SPACING = (0.8, 1.1, 2.5)
RAS_LPS = np.array([-1.0, -1.0, 1.0])


def hu(shape: tuple[int, int, int] = (9, 11, 6), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1200, shape).astype(np.int16)


def grid(shape: tuple[int, ...], order=(0, 1, 2), signs=(1, 1, 1)) -> Geometry:
    affine = np.zeros((4, 4))
    for axis, (world, sign) in enumerate(zip(order, signs)):
        affine[world, axis] = sign * SPACING[axis]
    affine[:, 3] = (-20, 30, -100, 1)
    return Geometry(shape, affine)


def turned(shape: tuple[int, ...], degrees: float, tilt: float = 0.0) -> Geometry:
    """An oblique grid; `tilt` leans the slices against their normal as a gantry does."""
    angle, lean = np.radians(degrees), np.tan(np.radians(tilt))
    about_x = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    about_z = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag(SPACING)
    affine[:3, 2] += lean * SPACING[2] * affine[:3, 1] / SPACING[1]
    affine[:3, 3] = (3, -5, 50)
    return Geometry(shape, affine)


def values_at(array: np.ndarray, geometry: Geometry, points_mm: np.ndarray) -> np.ndarray:
    index = np.rint(geometry.to_index(points_mm)).astype(int)
    assert np.abs(geometry.to_index(points_mm) - index).max() < 1e-3
    return array[tuple(index.T)]


def every_voxel(shape: tuple[int, ...]) -> np.ndarray:
    return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, len(shape))


ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_every_voxel_keeps_its_place_in_all_48_orders(tmp_path, order, signs):
    array, geometry = hu((4, 5, 3)), grid((4, 5, 3), order, signs)
    files = write_ct_series(array, geometry, tmp_path)
    image = read_series(files)
    points = geometry.to_world(every_voxel(array.shape))
    np.testing.assert_array_equal(values_at(image.array[0], image.geometry, points), array.ravel())
    assert read_series_geometry(files).distance_mm(image.geometry) == 0


@pytest.mark.parametrize("degrees", [12.5, 40.0])
def test_oblique_grids_lie_where_itk_puts_them(tmp_path, degrees):
    array, geometry = hu(), turned((9, 11, 6), degrees)
    files = write_ct_series(array, geometry, tmp_path)
    image = read_series(files)
    points = geometry.to_world(every_voxel(array.shape))
    np.testing.assert_array_equal(values_at(image.array[0], image.geometry, points), array.ravel())
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    oracle = reader.Execute()
    for index in itertools.product((0, 8), (0, 10), (0, 5)):
        place = np.array(oracle.TransformIndexToPhysicalPoint(index)) * RAS_LPS
        ours = np.rint(image.geometry.to_index(place)).astype(int)
        np.testing.assert_allclose(image.geometry.to_world(ours), place, atol=1e-3)
        assert oracle.GetPixel(index) == image.array[0][tuple(ours)]


def test_the_grid_s_eight_corners_are_those_of_the_source(tmp_path):
    geometry = turned((9, 11, 6), 17.0)
    image = read_series(write_ct_series(hu(), geometry, tmp_path))
    for corner in image.geometry.corners():
        assert np.linalg.norm(geometry.corners() - corner, axis=1).min() < 1e-3


def test_shuffled_and_renamed_files_give_the_same_volume(tmp_path):
    files = write_ct_series(hu(), grid((9, 11, 6)), tmp_path / "a")
    first = read_series(files)
    (tmp_path / "b").mkdir()
    names = list(range(len(files)))
    random.Random(3).shuffle(names)
    for file, name in zip(files, names):
        header = pydicom.dcmread(file)
        header.InstanceNumber = 100 - name
        header.save_as(tmp_path / "b" / f"IM{name}")
    again = read_image(tmp_path / "b")
    np.testing.assert_array_equal(first.array, again.array)
    assert first.geometry.same_grid(again.geometry)
    assert content_hash(files) == content_hash(list(reversed(files)))


def test_compressed_and_plain_series_are_equal(tmp_path):
    plain = read_series(write_ct_series(hu(), grid((9, 11, 6)), tmp_path / "a"))
    packed = read_series(write_ct_series(hu(), grid((9, 11, 6)), tmp_path / "b", compress=True))
    np.testing.assert_array_equal(plain.array, packed.array)
    np.testing.assert_array_equal(plain.array[0][..., ::1], hu())


def test_values_are_rescaled_slice_by_slice_and_whole_numbers_stay_whole(tmp_path):
    array = hu() // 2 * 2
    files = write_ct_series(array, grid(array.shape), tmp_path)
    for file in files[3:]:
        header = pydicom.dcmread(file)
        header.PixelData = (header.pixel_array // 2).astype("<u2").tobytes()
        header.RescaleSlope = 2
        header.save_as(file)
    image = read_series(files)
    assert image.array.dtype == np.int16
    np.testing.assert_array_equal(image.array[0], array)
    assert any("each slice was rescaled by its own" in note for note in image.notes)


def test_padding_outside_the_field_of_view_becomes_air(tmp_path):
    array = hu()
    array[:2] = -2000
    image = read_series(
        write_ct_series(array, grid(array.shape), tmp_path, facts=SeriesFacts(padding_hu=-2000))
    )
    assert image.array.min() >= -1024
    assert any(f"{2 * 11 * 6} voxels outside the field of view" in note for note in image.notes)


def test_other_slopes_and_signs_come_back_in_hu(tmp_path):
    facts = SeriesFacts(rescale_slope=0.5, rescale_intercept=-1000.0)
    np.testing.assert_allclose(
        read_series(write_ct_series(hu(), grid((9, 11, 6)), tmp_path / "a", facts=facts)).array[0], hu()
    )
    facts = SeriesFacts(rescale_intercept=0.0)
    image = read_series(write_ct_series(hu(), grid((9, 11, 6)), tmp_path / "b", facts=facts))
    assert image.array.dtype == np.int16
    np.testing.assert_array_equal(image.array[0], hu())


@pytest.mark.parametrize("spoil", ["without", "slope 0"])
def test_ct_slices_that_do_not_say_how_to_rescale_them_put_the_values_in_doubt(tmp_path, spoil):
    files = write_ct_series(hu(), grid((9, 11, 6)), tmp_path)
    for file in files[4:]:
        header = pydicom.dcmread(file)
        if spoil == "without":
            del header.RescaleSlope, header.RescaleIntercept
        else:
            header.RescaleSlope = 0
        header.save_as(file)
    notes = read_series(files).notes
    assert "2 of 6 slices do not say how to rescale them: Hounsfield units are in doubt" in notes


# --- slices that are missing, doubled, uneven, tilted ------------------------------------------------------------------


@pytest.fixture
def series(tmp_path) -> list[Path]:
    return write_ct_series(hu((6, 7, 60)), grid((6, 7, 60)), tmp_path)


def test_a_missing_slice_is_named_by_its_neighbours_and_millimetres(series):
    with pytest.raises(IrregularSeries) as caught:
        read_series([f for n, f in enumerate(series) if n != 39])
    assert any(
        "1 slice(s) missing between instance 39 and instance 41" in fault
        and "5.00 mm instead of 2.50" in fault
        for fault in caught.value.faults
    )
    assert "data.select.irregular" in caught.value.hint


def test_resampling_over_missing_slices_keeps_volumes_within_one_percent(tmp_path):
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (40, 40, 60)], indexing="ij")
    ball = np.where(x**2 + y**2 + z**2 < 0.6, 100, -1000).astype(np.int16)
    files = write_ct_series(ball, grid(ball.shape), tmp_path)
    whole = read_series(files)
    holed = read_series([f for n, f in enumerate(files) if n not in (20, 39, 40)], irregular="resample")
    assert holed.geometry.same_grid(whole.geometry)
    assert any("57 unevenly spaced slices interpolated onto 60" in note for note in holed.notes)

    def volume(image):
        return np.count_nonzero(image.array > -450) * image.geometry.voxel_volume_ml

    assert volume(holed) == pytest.approx(volume(whole), rel=0.01)


def test_uneven_distances_are_refused_and_small_roundings_are_not(series, tmp_path):
    for number, file in enumerate(series):
        header = pydicom.dcmread(file)
        header.ImagePositionPatient[2] = round(
            float(header.ImagePositionPatient[2]) + 0.004 * (-1) ** number, 3
        )
        header.save_as(file)
    assert read_series(series).geometry.spacing[2] == pytest.approx(2.5, abs=0.001)
    header = pydicom.dcmread(series[30])
    header.ImagePositionPatient[2] = float(header.ImagePositionPatient[2]) + 0.9
    header.save_as(series[30])
    with pytest.raises(IrregularSeries, match="unevenly spaced") as caught:
        read_series(series)
    assert any("uneven distance between instance" in fault for fault in caught.value.faults)


def test_copies_of_a_slice_are_dropped_and_named(series):
    copy = series[5].with_name("copy.dcm")
    shutil.copy(series[5], copy)
    other = pydicom.dcmread(series[7])
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = "2.25.99"
    other.save_as(series[7].with_name("again.dcm"))
    image = read_series([*series, copy, series[7].with_name("again.dcm")])
    assert image.array.shape[-1] == 60
    assert any("2 duplicate slices dropped" in note and "instance 6" in note for note in image.notes)


def test_two_different_pictures_of_one_place_are_never_stacked(series):
    other = pydicom.dcmread(series[7])
    other.PixelData = bytes(len(other.PixelData))
    other.SOPInstanceUID = "2.25.99"
    other.save_as(series[7].with_name("other.dcm"))
    with pytest.raises(
        UserError, match="different pictures at one place that nothing in the header tells apart"
    ):
        read_series([*series, series[7].with_name("other.dcm")])


def test_a_gantry_tilt_is_a_sheared_grid_with_a_true_volume(tmp_path):
    array, geometry = hu((20, 24, 10)), turned((20, 24, 10), 0.0, tilt=15.0)
    image = read_series(write_ct_series(array, geometry, tmp_path))
    assert not image.geometry.is_orthogonal
    assert image.geometry.voxel_volume_ml == pytest.approx(geometry.voxel_volume_ml, rel=1e-4)
    points = geometry.to_world(every_voxel(array.shape))
    np.testing.assert_array_equal(values_at(image.array[0], image.geometry, points), array.ravel())
    assert any("gantry tilt of 15.0 degrees" in note for note in image.notes)


def test_slices_shifted_sideways_are_refused_with_the_distance(series):
    header = pydicom.dcmread(series[30])
    header.ImagePositionPatient[0] = float(header.ImagePositionPatient[0]) + 3
    header.save_as(series[30])
    with pytest.raises(UserError, match=r"do not lie on a straight line \(3.00 mm beside it\)"):
        read_series(series)


def test_one_slice_is_read_by_its_thickness_or_refused(tmp_path):
    files = write_ct_series(hu((9, 11, 1)), grid((9, 11, 1)), tmp_path)
    assert read_series(files).geometry.spacing[2] == pytest.approx(2.5)
    header = pydicom.dcmread(files[0])
    del header.SliceThickness
    header.save_as(files[0])
    with pytest.raises(UserError, match="a single slice whose thickness is not in its header"):
        read_series(files)


def test_slices_of_other_sizes_and_other_patients_are_refused(tmp_path):
    files = write_ct_series(hu(), grid((9, 11, 6)), tmp_path)
    header = pydicom.dcmread(files[2])
    header.Rows, header.PixelData = 5, header.PixelData[: 9 * 5 * 2] + b""
    header.save_as(files[2])
    with pytest.raises(UserError, match="instance 3 has 9x5 pixels, the others 9x11"):
        read_series(files)
    files = write_ct_series(hu(), grid((9, 11, 6)), tmp_path)
    header = pydicom.dcmread(files[2])
    header.PatientID = "someone else"
    header.save_as(files[2])
    with pytest.raises(UserError, match="files of 2 patients under one series"):
        read_series(files)


def test_damaged_files_are_counted_and_named_by_number(tmp_path):
    files = write_ct_series(hu(), grid((9, 11, 6)), tmp_path)
    files[1].write_bytes(b"")
    files[3].write_text("this is no picture " * 20)
    files[4].write_bytes(files[4].read_bytes()[:-50])
    with pytest.raises(UserError, match="3 of 6 files cannot be used") as caught:
        read_series(files)
    assert list(caught.value.faults) == [
        "file 2: empty file (0 bytes)",
        "file 4: not a DICOM file",
        "file 5: pixel data is 50 bytes short",
    ]


def test_a_header_that_claims_more_than_the_file_can_hold_is_refused(tmp_path):
    files = write_ct_series(hu((9, 11, 1)), grid((9, 11, 1)), tmp_path, compress=True)
    header = pydicom.dcmread(files[0])
    header.Rows = header.Columns = 60000
    header.save_as(files[0])
    with pytest.raises(UserError, match=r"claims 7.2 GB of pixels, the file has"):
        read_series(files)


def test_a_series_of_colour_is_refused(tmp_path):
    files = write_ct_series(hu((9, 11, 1)), grid((9, 11, 1)), tmp_path)
    header = pydicom.dcmread(files[0])
    header.SamplesPerPixel, header.PhotometricInterpretation = 3, "RGB"
    header.save_as(files[0])
    with pytest.raises(UserError, match=r"a colour picture \(3 samples a pixel\)"):
        read_series(files)


def test_a_folder_is_read_as_its_one_series_with_other_files_left_out(tmp_path):
    write_ct_series(hu(), grid((9, 11, 6)), tmp_path / "ä 肺")
    (tmp_path / "ä 肺" / "README.txt").write_text("notes")
    image = read_image(tmp_path / "ä 肺")
    assert image.array.shape == (1, 9, 11, 6)
    assert read_geometry(tmp_path / "ä 肺").same_grid(image.geometry)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no DICOM series"):
        read_image(tmp_path / "empty")


def test_loops_of_links_are_cut(tmp_path):
    write_ct_series(hu(), grid((9, 11, 6)), tmp_path / "a")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    series, left = scan(tmp_path)
    assert len(series) == 1
    assert len(series[0].files) == 6
    assert left == []


# --- the writer ---------------------------------------------------------------------------------------------------------


def test_the_writer_refuses_what_dicom_cannot_say(tmp_path):
    with pytest.raises(UserError, match="holds a 3D volume in mm"):
        write_ct_series(np.zeros((3, 4), np.int16), Geometry.pixels((3, 4)), tmp_path)
    with pytest.raises(UserError, match="whole numbers, got float64"):
        write_ct_series(np.zeros((3, 4, 5)), grid((3, 4, 5)), tmp_path)
    sheared = np.diag([1.0, 1, 1, 1])
    sheared[0, 1] = 0.5
    with pytest.raises(UserError, match="stand at right angles"):
        write_ct_series(np.zeros((3, 4, 5), np.int16), Geometry((3, 4, 5), sheared), tmp_path)
    with pytest.raises(UserError, match="do not fit 16 bits"):
        write_ct_series(np.full((3, 4, 5), 90000, np.int32), grid((3, 4, 5)), tmp_path)


def test_equal_input_gives_equal_files(tmp_path):
    for name in ("a", "b"):
        write_ct_series(hu(), grid((9, 11, 6)), tmp_path / name, patient="p7")
    for first, second in zip(sorted((tmp_path / "a").iterdir()), sorted((tmp_path / "b").iterdir())):
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("spoil", ["empty", "cut in its header", "cut before the mark"])
def test_a_file_lost_at_an_end_puts_the_volume_in_doubt(series, tmp_path, spoil):
    """No gap tells of it: the five slices left lie evenly."""
    whole = series[-1].read_bytes()
    series[-1].write_bytes({"empty": b"", "cut in its header": whole[:300]}.get(spoil, whole[:100]))
    image = read_image(series[0].parent)
    assert image.array.shape[-1] == len(series) - 1
    said = [note for note in image.notes if "slices may be lacking at an end" in note]
    assert len(said) == 1
    assert said[0].startswith("1 of the files beside its slices cannot be read (")
    assert any(words in said[0] for words in DOUBTS), "such a case is one to look at"


def test_other_files_beside_a_series_put_nothing_in_doubt(series):
    folder = series[0].parent
    (folder / "notes.txt").touch()
    (folder / ".hidden.dcm").touch()
    other = pydicom.dcmread(series[0])
    other.SeriesInstanceUID, other.Modality = "2.25.7", "SR"
    del other.PixelData
    other.save_as(folder / "report.dcm")
    assert not any("lacking" in note for note in read_series(series).notes)
