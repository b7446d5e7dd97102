"""NIfTI: places, units, scaling and damage; what is written lies where the source lay, to the bit."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.io.doors import read_geometry, read_image, write_array, write_segmentation
from medseg.io.nifti import read_nifti, read_nifti_geometry, write_nifti

BOX = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
CLASSES = (ClassInfo("one", 1, (255, 0, 0)),)


def saved(path: Path, array: np.ndarray, affine: np.ndarray | None = None, header=None) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine, header), path)
    return path


def random_affine(seed: int, shear: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn @ (np.diag(rng.uniform(0.4, 6, 3)) + shear * np.triu(np.ones((3, 3)), 1))
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    return affine


def test_voxels_and_place_are_those_of_nibabel(tmp_path):
    affine = random_affine(1)
    image = read_nifti(saved(tmp_path / "a.nii.gz", BOX, affine))
    assert image.array.shape == (1, 4, 5, 6)
    assert image.array.dtype == np.int16
    np.testing.assert_array_equal(image.array[0], BOX)
    np.testing.assert_allclose(image.geometry.affine, affine, atol=1e-4)


def test_a_box_of_one_millilitre_has_one_millilitre(tmp_path):
    labels = np.zeros((20, 20, 10), dtype=np.uint8)
    labels[3:13, 4:14, 2:6] = 1
    seg = Segmentation(labels, Geometry.from_spacing(labels.shape, (1, 1, 2.5)), CLASSES)
    from medseg.io.doors import read_segmentation

    back = read_segmentation(write_segmentation(seg, tmp_path / "box.nii.gz"), CLASSES)
    assert back.volume_ml(0) == pytest.approx(1.0)


def test_slope_and_intercept_are_applied_and_a_zero_slope_is_not(tmp_path):
    path = saved(tmp_path / "a.nii", BOX)
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([0.5, -100], dtype="<f4").tobytes()
    path.write_bytes(data)
    np.testing.assert_allclose(read_nifti(path).array[0], BOX * 0.5 - 100)
    data[112:116] = np.array([0], dtype="<f4").tobytes()
    path.write_bytes(data)
    np.testing.assert_array_equal(read_nifti(path).array[0], BOX)


def test_sform_comes_first_and_a_disagreement_is_noted_with_its_distance(tmp_path):
    header = nib.Nifti1Header()
    header.set_sform(np.diag([1, 1, 1, 1]), code=1)
    header.set_qform(np.diag([-1, 1, 1, 1]), code=1)
    image = read_nifti(saved(tmp_path / "a.nii.gz", BOX, None, header))
    assert image.geometry.axis_codes == "RAS"
    assert any("left and right are in doubt" in note and "sform was taken" in note for note in image.notes)


def test_no_orientation_is_noted(tmp_path):
    path = saved(tmp_path / "a.nii", BOX)
    data = bytearray(path.read_bytes())
    data[252:256] = b"\0\0\0\0"
    path.write_bytes(data)
    assert any("left and right are in doubt" in note for note in read_nifti(path).notes)


def test_no_spacing_is_refused_with_the_value(tmp_path):
    path = saved(tmp_path / "a.nii", BOX)
    data = bytearray(path.read_bytes())
    data[252:256] = b"\0\0\0\0"
    data[80:84] = b"\0\0\0\0"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"has no spacing \(voxels of \[0\.0"):
        read_nifti(path)


def test_metres_that_cannot_be_true_are_refused(tmp_path):
    image = nib.Nifti1Image(BOX, np.eye(4))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(UserError, match="1000 x 1000 x 1000 mm cannot be right"):
        read_nifti(tmp_path / "a.nii")


def test_micrometres_are_converted_and_noted_and_written_back_as_they_were(tmp_path):
    image = nib.Nifti1Image(BOX, np.diag([40, 40, 50, 1]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii")
    read = read_image(tmp_path / "a.nii")
    assert read.geometry.spacing == pytest.approx((0.04, 0.04, 0.05))
    assert any("converted" in note for note in read.notes)
    seg = Segmentation((BOX > 50).astype(np.uint8), read.geometry, CLASSES)
    written = nib.load(write_segmentation(seg, tmp_path / "b.nii.gz", read))
    np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "a.nii").affine)
    assert written.header.get_xyzt_units()[0] == "micron"


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**20), sheared=st.booleans(), codes=st.sampled_from([(1, 1), (2, 0), (0, 3), (4, 1)])
)
def test_a_result_has_its_source_s_header(tmp_path_factory, seed, sheared, codes):
    folder = tmp_path_factory.mktemp("h")
    affine = random_affine(seed, 0.3 if sheared and not codes[1] else 0.0)
    image = nib.Nifti1Image(BOX, affine)
    image.set_sform(affine, code=codes[0])
    image.set_qform(affine, code=codes[1])
    nib.save(image, folder / "a.nii")
    read = read_image(folder / "a.nii")
    seg = Segmentation((BOX % 2).astype(np.uint8), read.geometry, CLASSES)
    ours, theirs = nib.load(write_segmentation(seg, folder / "b.nii.gz", read)), nib.load(folder / "a.nii")
    assert ours.shape == theirs.shape
    for name in ("sform_code", "qform_code", "quatern_b", "quatern_c", "quatern_d", "pixdim", "xyzt_units",
                 "srow_x", "srow_y", "srow_z", "qoffset_x", "qoffset_y", "qoffset_z"):  # fmt: skip
        np.testing.assert_array_equal(ours.header[name], theirs.header[name], err_msg=name)
    np.testing.assert_array_equal(np.asarray(ours.dataobj), BOX % 2)


@pytest.mark.parametrize("sheared", [False, True])
def test_without_a_source_the_affine_is_written_and_read_back(tmp_path, sheared):
    geometry = Geometry(BOX.shape, random_affine(5, 0.4 if sheared else 0.0))
    write_nifti(BOX, geometry, tmp_path / "a.nii.gz")
    back = read_nifti(tmp_path / "a.nii.gz")
    assert back.geometry.same_grid(geometry)
    assert back.geometry.is_orthogonal is not sheared
    np.testing.assert_array_equal(back.array[0], BOX)
    oracle = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(oracle.affine, geometry.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(oracle.dataobj), BOX)


def test_equal_arrays_give_equal_bytes(tmp_path):
    geometry = Geometry.from_spacing(BOX.shape, (1, 1, 1))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(BOX, geometry, tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_channels_are_read_only_when_the_caller_says_so(tmp_path):
    several = np.stack([BOX, BOX * 2], axis=-1)
    path = saved(tmp_path / "a.nii.gz", several)
    with pytest.raises(UserError, match="holds 2 volumes on one grid"):
        read_image(path)
    image = read_image(path, channels=True)
    assert image.array.shape == (2, 4, 5, 6)
    np.testing.assert_array_equal(image.array[1], BOX * 2)


def test_channels_survive_writing(tmp_path):
    array = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float16)
    geometry = Geometry.from_spacing((4, 5, 6), (1, 2, 3))
    write_array(array, geometry, tmp_path / "p.nii.gz")
    np.testing.assert_array_equal(
        read_image(tmp_path / "p.nii.gz", channels=True).array, array.astype(np.float32)
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b"", r"is empty \(0 bytes\)"),
        (lambda b: b[: len(b) * 2 // 3], "compressed data cannot be unpacked"),
        (lambda b: b[:-8] + b"\0\0\0\0" + b[-4:], "compressed data cannot be unpacked"),
        (lambda b: gzip.compress(gzip.decompress(b)[:-40]), "of voxels are missing"),
        (lambda b: gzip.compress(b"not an image" * 60), "is no NIfTI file"),
        (lambda b: gzip.compress(gzip.decompress(b)[:100]), "is no NIfTI file"),
    ],
    ids=["empty", "cut", "checksum", "short", "text", "half a header"],
)
def test_damage_is_named(tmp_path, damage, message):
    path = saved(
        tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 999, (12, 12, 12)).astype(np.int16)
    )
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        read_nifti(path)
    assert caught.value.where == "a.nii.gz"
    assert caught.value.hint or "damaged" in caught.value.what


def test_a_plain_file_cut_short_says_how_much_is_there(tmp_path):
    path = saved(tmp_path / "a.nii", np.zeros((50, 50, 50), dtype=np.int16))
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"claims 250 kB of voxels, the file has 99.6 kB"):
        read_nifti(path)


def test_a_header_that_claims_terabytes_is_refused_before_memory_is_taken(tmp_path):
    path = saved(tmp_path / "a.nii.gz", BOX)
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[40:48] = np.array([3, 30000, 30000, 30000], dtype="<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(data)))
    with pytest.raises(UserError, match="the header claims 54 TB of voxels"):
        read_nifti(path)


def test_a_bomb_behind_a_small_header_is_stopped(tmp_path):
    path = saved(tmp_path / "a.nii.gz", BOX)
    data = gzip.decompress(path.read_bytes()) + b"\0" * (40 * 2**20)
    path.write_bytes(gzip.compress(data, 1))
    with pytest.raises(UserError, match="far more data than its header speaks of"):
        read_nifti(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 3, 3), dtype=np.complex64), "complex voxels"),
        (np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), r"colour voxels \(RGB\)"),
        (np.zeros((3, 3, 3, 1, 3), dtype=np.float32), "has 5 axes"),
    ],
    ids=["complex", "colour", "vectors"],
)
def test_what_is_no_image_is_refused(tmp_path, array, message):
    with pytest.raises(UserError, match=message):
        read_nifti(saved(tmp_path / "a.nii.gz", array))


def test_free_text_of_the_header_never_leaves_the_reader(tmp_path):
    image = nib.Nifti1Image(BOX, np.eye(4))
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = b"CANARY^Name"
    nib.save(image, tmp_path / "a.nii.gz")
    read = read_image(tmp_path / "a.nii.gz")
    assert "CANARY" not in repr(read.origin) + repr(read.notes)
    seg = Segmentation(np.zeros(BOX.shape, np.uint8), read.geometry, CLASSES)
    written = gzip.decompress(write_segmentation(seg, tmp_path / "b.nii.gz", read).read_bytes())
    assert b"CANARY" not in written


def test_the_grid_is_read_without_voxels(tmp_path):
    path = saved(tmp_path / "a.nii", np.zeros((50, 50, 50), dtype=np.int16), random_affine(3))
    path.write_bytes(path.read_bytes()[:400])
    assert read_nifti_geometry(path).shape == (50, 50, 50)
    assert read_geometry(path).shape == (50, 50, 50)


def test_a_photograph_is_not_written_as_nifti(tmp_path):
    with pytest.raises(UserError, match="a photograph has no place in a NIfTI file"):
        write_nifti(np.zeros((3, 4), np.uint8), Geometry.pixels((3, 4)), tmp_path / "a.nii.gz")


def test_extensions_are_skipped_and_their_text_is_not_kept(tmp_path):
    image = nib.Nifti1Image(BOX, np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"CANARY " * 200))
    nib.save(image, tmp_path / "a.nii.gz")
    read = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read.array[0], BOX)
    assert b"CANARY" not in read.origin["header"]


def test_a_gzip_whose_header_declares_100_gb_is_refused_with_both_sizes_and_takes_no_memory(tmp_path):
    import tracemalloc

    header = nib.Nifti1Header()
    header.set_data_shape((4000, 4000, 3125))
    header.set_data_dtype(np.int16)
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(header.binaryblock + b"\0" * 4 + b"\0" * 200_000))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"the header claims 100 GB of voxels, the file has \d+ bytes"):
        read_image(tmp_path / "bomb.nii.gz")
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
