"""Odd volumes from the wild: each is read, read with a note, or refused in words; none is guessed at."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core.errors import UserError
from medseg.io.doors import read_geometry, read_image, read_segmentation

READ = {
    "base_psr.nii.gz": "PSR", "base_ras.nii.gz": "RAS", "big_endian.nii": "RAS", "oblique.nii.gz": "RAS",
    "scl_slope_zero.nii.gz": "RAS", "scl_slope_nan.nii.gz": "RAS", "scaled_slope_inter.nii.gz": "RAS",
    "scaled_negative_slope.nii.gz": "RAS", "qform_only.nii.gz": "RAS", "sform_only.nii.gz": "RAS",
    "pixdim_negative.nii.gz": "RAS", "left_handed.nii.gz": "LAS", "four_d_one.nii.gz": "RAS",
    "one_slice.nii.gz": "RAS", "float64_nan_inf.nii.gz": "RAS", "uint16_high.nii.gz": "RAS",
    "constant.nii.gz": "RAS", "nifti2.nii.gz": "RAS", "pair.img": "RAS", "pair.hdr": "RAS",
    "compressed.mha": "PSR", "plain.mhd": "PSR", "gzip.nrrd": "PSR", "space_ras.nrrd": "PSR",
}  # fmt: skip
NOTED = {
    "sform_qform_disagree.nii.gz": "sform and qform are 8.41 mm apart",
    "sform_qform_left_right_disagree.nii.gz": "left and right are in doubt",
    "no_forms.nii.gz": "no orientation in the header",
    "analyze75.img": "no orientation in the header",
    "microns.nii.gz": "header in microns, converted",
    "sheared_sform.nii.gz": "not at right angles",
    "not_gzip.nii.gz": "an uncompressed file under the other's ending",
    "gzip_named_nii.nii": "a compressed file under the other's ending",
}
REFUSED = {
    "pixdim_zero.nii.gz": "has no spacing",
    "four_d_time.nii.gz": "holds 4 volumes on one grid",
    "dmri_4d.nii.gz": "holds 7 volumes on one grid",
    "fmri_4d.nii.gz": "holds 6 volumes on one grid",
    "five_d_vector.nii.gz": "has 5 axes",
    "rgb24.nii.gz": "colour voxels",
    "rgb_tiny.nii.gz": "colour voxels",
    "complex64.nii.gz": "complex voxels",
    "truncated.nii.gz": "compressed data cannot be unpacked",
    "bad_crc.nii.gz": "compressed data cannot be unpacked",
    "short_data.nii.gz": "2 kB of voxels are missing",
    "header_claims_54TB.nii.gz": "the header claims 54 TB of voxels, the file has 92 bytes",
    "bad_dim0.nii": "has a damaged header",
    "bad_magic.nii": "is no NIfTI file",
    "empty.nii.gz": r"is empty \(0 bytes\)",
    "raw_missing.mhd": "names a data file not_there.raw that is missing",
    "raw_outside.mhd": "points to a data file outside its own folder",
    "no_space.nrrd": "has no spacing and no orientation",
}


@pytest.fixture(scope="module")
def folder(shared_data):
    return shared_data / "misc_volumes"


@pytest.mark.parametrize(("name", "codes"), READ.items())
def test_sound_files_are_read_without_a_word(folder, name, codes):
    image = read_image(folder / name)
    assert image.geometry.axis_codes == codes
    assert image.notes == ()
    assert image.array.shape[1:] == image.geometry.shape
    assert read_geometry(folder / name).same_grid(image.geometry)


@pytest.mark.parametrize(("name", "note"), NOTED.items())
def test_doubtful_files_are_read_with_a_note(folder, name, note):
    assert any(note in said for said in read_image(folder / name).notes)


@pytest.mark.parametrize(("name", "message"), REFUSED.items())
def test_damaged_and_foreign_files_are_refused_in_words(folder, name, message):
    with pytest.raises(UserError, match=message) as caught:
        read_image(folder / name)
    assert caught.value.where == name


@pytest.mark.parametrize("name", ["compressed.mha", "plain.mhd", "gzip.nrrd", "space_ras.nrrd", "base_ras.nii.gz", "nifti2.nii.gz", "big_endian.nii", "pair.img"])  # fmt: skip
def test_one_image_in_many_formats_is_one_image(folder, name):
    reference, image = read_image(folder / "base_psr.nii.gz"), read_image(folder / name)
    index = np.array([(0, 0, 0), (19, 17, 15), (3, 11, 7)])
    there = np.rint(image.geometry.to_index(reference.geometry.to_world(index))).astype(int)
    np.testing.assert_allclose(image.geometry.to_world(there), reference.geometry.to_world(index), atol=1e-3)
    np.testing.assert_array_equal(image.array[0][tuple(there.T)], reference.array[0][tuple(index.T)])


def test_scaled_values_are_those_of_the_header(folder):
    plain = read_image(folder / "base_ras.nii.gz").array
    np.testing.assert_allclose(read_image(folder / "scaled_slope_inter.nii.gz").array, plain * 0.5 - 100)
    assert read_image(folder / "scaled_negative_slope.nii.gz").array.max() <= 2000
    assert read_image(folder / "uint16_high.nii.gz").array.max() > 32767


def test_planes_are_read_as_planes(folder):
    assert read_image(folder / "two_d.nii.gz").geometry.shape == (16, 20)
    assert read_image(folder / "two_d_mr.mha").geometry.shape == (256, 256)


def test_labels_are_rounded_never_cut_and_keep_big_values(folder):
    seg = read_segmentation(folder / "float_labels.nii.gz")
    assert set(np.unique(seg.labels)) == {0, 1}
    assert any("nearly whole numbers; rounded" in note for note in seg.provenance["notes"])
    assert set(np.unique(read_segmentation(folder / "labels_big_values.nii.gz").labels)) == {0, 1035, 2035}
    assert set(np.unique(read_segmentation(folder / "int64_labels.nii.gz").labels)) == {0, 1}
    with pytest.raises(UserError, match=r"is no label map: \d+ voxels are no whole numbers"):
        read_segmentation(folder / "scaled_slope_inter.nii.gz")


def test_the_two_halves_of_a_pair_are_one_content(folder):
    from medseg.io.doors import content_hash

    assert content_hash(folder / "pair.img") == content_hash(folder / "pair.hdr")


def test_every_line_of_the_collection_s_table_has_its_test(folder):
    table = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|")[1].strip() for line in table if line.startswith("| ")]
    own = {
        "two_d.nii.gz",
        "two_d_mr.mha",
        "float_labels.nii.gz",
        "labels_big_values.nii.gz",
        "int64_labels.nii.gz",
    }
    tested = {*READ, *NOTED, *REFUSED, *own}
    assert sorted(row for row in rows if "." in row and row not in tested) == []
