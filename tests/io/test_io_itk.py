"""NRRD and MetaImage: equal to ITK on whole files, honest on damaged ones, deaf to names of files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.io.doors import (
    content_hash,
    read_geometry,
    read_image,
    read_segmentation,
    write_array,
    write_segmentation,
)

RAS_LPS = np.array([-1.0, -1.0, 1.0])


def oblique(shape: tuple[int, ...], seed: int = 0) -> Geometry:
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn[:, 0] *= np.sign(np.linalg.det(turn))
    affine = np.eye(4)
    affine[:3, :3] = turn * (0.7, 1.9, 3.3)
    affine[:3, 3] = (5.5, -70.25, 900)
    return Geometry(shape, affine)


def place_by_itk(path: Path, index: tuple[int, ...]) -> np.ndarray:
    return np.array(sitk.ReadImage(str(path)).TransformIndexToPhysicalPoint(index)) * RAS_LPS


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_what_is_written_is_what_itk_reads(tmp_path, name, kind):
    array = np.random.default_rng(1).integers(0, 99, (4, 5, 6)).astype(kind)
    geometry = oblique(array.shape)
    path = write_array(array, geometry, tmp_path / name)
    oracle = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(oracle).T, array)
    for index in ((0, 0, 0), (3, 4, 5), (3, 0, 2)):
        np.testing.assert_allclose(place_by_itk(path, index), geometry.to_world(index), atol=1e-9)


@pytest.mark.parametrize("ending", ["nrrd", "mha", "mhd"])
@pytest.mark.parametrize("packed", [False, True])
def test_what_itk_writes_is_read_equal(tmp_path, ending, packed):
    array = np.random.default_rng(2).integers(-99, 99, (6, 5, 4)).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    geometry = oblique((4, 5, 6), 3)
    image.SetSpacing(geometry.spacing)
    directions = np.diag(RAS_LPS) @ geometry.affine[:3, :3] / np.array(geometry.spacing)
    image.SetDirection(directions.ravel())
    image.SetOrigin(geometry.affine[:3, 3] * RAS_LPS)
    path = tmp_path / f"a.{ending}"
    sitk.WriteImage(image, str(path), packed)
    read = read_image(path)
    np.testing.assert_array_equal(read.array[0], array.T)
    assert read.geometry.distance_mm(geometry) < 1e-6
    assert read_geometry(path).same_grid(geometry)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_channels_are_read_when_the_caller_says_so(tmp_path, name):
    array = np.random.default_rng(4).normal(size=(3, 4, 5, 6)).astype(np.float32)
    path = write_array(array, oblique((4, 5, 6)), tmp_path / name)
    np.testing.assert_array_equal(read_image(path, channels=True).array, array)
    with pytest.raises(UserError, match="holds 3 values a voxel"):
        read_image(path)
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(3, 2, 1, 0), array
    )


@pytest.mark.parametrize("name", ["Größe 肺 (1).nrrd", "Größe 肺 (1).mha", "имя файла.nii.gz"])
def test_any_name_of_a_file_will_do(tmp_path, name):
    folder = tmp_path / "Ordner mit Ümläuten 肺"
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1, 2, 3] = 1
    seg = Segmentation(labels, oblique(labels.shape), (ClassInfo("a", 1, (1, 2, 3)),))
    back = read_segmentation(write_segmentation(seg, folder / name))
    np.testing.assert_array_equal(back.labels, labels)
    assert back.geometry.same_grid(seg.geometry)


def nrrd(folder: Path, text: str, data: bytes = b"") -> Path:
    (folder / "a.nrrd").write_bytes(text.encode() + b"\n\n" + data)
    return folder / "a.nrrd"


SPACE = "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,2)\nspace origin: (0,0,0)"
HEAD = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 3 4\nencoding: raw\n{SPACE}"


def test_the_right_anterior_superior_space_is_taken_as_it_is(tmp_path):
    path = nrrd(tmp_path, HEAD.replace("left-posterior-superior", "RAS"), bytes(range(24)))
    assert read_image(path).geometry.axis_codes == "RAS"
    assert read_image(nrrd(tmp_path, HEAD, bytes(range(24)))).geometry.axis_codes == "LPS"


@pytest.mark.parametrize(
    ("text", "data", "message"),
    [
        (HEAD, b"\0" * 20, "the header claims 24 bytes of voxels, the file has 20 bytes"),
        (
            HEAD.replace("raw", "gzip"),
            gzip.compress(b"\0" * 24, mtime=0)[:-9],
            "compressed data cannot be unpacked",
        ),
        (HEAD.replace("2 3 4", "90000 90000 90000"), b"\0" * 24, "the header claims 729 TB"),
        (HEAD.replace(SPACE, ""), b"\0" * 24, "has no spacing and no orientation"),
        (HEAD.replace("left-posterior-superior", "scanner-xyz"), b"", "left and right are unknown"),
        (HEAD + '\nspace units: "cm" "cm" "cm"', b"\0" * 24, "has the unit cm"),
        (HEAD.replace("uint8", "block"), b"", "has voxels of type 'block'"),
        (HEAD.replace("raw", "zrl"), b"", "has the encoding 'zrl'"),
        (HEAD + "\ndata file: ../x.raw", b"", "points to a data file outside its own folder"),
        (HEAD + "\ndata file: x.raw", b"", "names a data file x.raw that is missing"),
        (HEAD.replace("sizes: 2 3 4\n", ""), b"", "the field 'sizes' is missing"),
    ],
)
def test_an_nrrd_s_faults_are_named(tmp_path, text, data, message):
    with pytest.raises(UserError, match=message):
        read_image(nrrd(tmp_path, text, data))


META = """ObjectType = Image
NDims = 3
BinaryData = True
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = 1 1 2
DimSize = 2 3 4
ElementType = MET_UCHAR
ElementDataFile = LOCAL
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("", "", "the header claims 24 bytes of voxels, the file has 20 bytes"),
        ("CompressedData = False", "CompressedData = True", "cannot be unpacked"),
        ("ElementSpacing = 1 1 2\n", "", "the field 'ElementSize' is missing"),
        ("LOCAL", "/etc/hostname", "points to a data file outside its own folder"),
        ("LOCAL", "LIST", "spread over several data files"),
        ("NDims = 3", "NDims = 4", "has 4 axes"),
        ("BinaryData = True", "BinaryData = False", "stores its voxels as text"),
        ("ElementDataFile = LOCAL", "", "is no MetaImage file"),
    ],
)
def test_a_metaimage_s_faults_are_named(tmp_path, old, new, message):
    text = META.replace(old, new) if old else META
    (tmp_path / "a.mha").write_bytes(text.encode() + b"\0" * 20)
    with pytest.raises(UserError, match=message):
        read_image(tmp_path / "a.mha")


def test_a_detached_data_file_counts_in_the_hash(tmp_path):
    (tmp_path / "a.mhd").write_text(META.replace("LOCAL", "a.raw"))
    (tmp_path / "a.raw").write_bytes(bytes(range(24)))
    before = content_hash(tmp_path / "a.mhd")
    (tmp_path / "a.raw").write_bytes(bytes(24))
    assert content_hash(tmp_path / "a.mhd") != before
