"""Real and awkward DICOM: each file and series is read, read with a note, or refused in words."""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import pytest

from medseg.config import Select
from medseg.core.errors import UserError
from medseg.io.dicom.read import read_series
from medseg.io.dicom.read_seg import place_on, read_seg
from medseg.io.dicom.scan import choose, scan
from medseg.io.doors import read_geometry, read_image, read_segmentation

READ_SERIES = {
    "hitachi_mr": ((64, 64, 4), (2.344, 2.344, 4.0)),
    "non_isotropic_mr": ((64, 28, 4), (6.4, 4.0, 0.5)),
    "ct_88x128": ((88, 128, 10), (2.0, 2.0, 2.0)),
    "ct_oblique_3": ((100, 50, 3), (2.5, 3.5, 4.5)),
    "ct_23x38x3": ((23, 38, 3), (0.7, 0.7, 2.5)),
    "ct_24x38x3": ((24, 38, 3), (0.7, 0.7, 2.5)),
    "ct_3slice": ((512, 512, 3), (0.811, 0.811, 1.0)),
    "two_slices_only_mr": ((32, 32, 2), (8.0, 8.0, 1.0)),
    "thorax_clean": ((64, 64, 8), (5.172, 5.172, 8.0)),
    "thorax_instance_numbers_wrong": ((64, 64, 8), (5.172, 5.172, 8.0)),
    "thorax_spacing_between_slices_negative": ((64, 64, 8), (5.172, 5.172, 8.0)),
    "thorax_thickness_disagrees": ((64, 64, 8), (5.172, 5.172, 8.0)),
}
NOTED_SERIES = {
    "gantry_tilt_siemens_ct": "gantry tilt of 14.0 degrees",
    "thorax_duplicate_file": "1 duplicate slices dropped",
    "thorax_duplicate_slice": "1 duplicate slices dropped",
    "thorax_rescale_varies": "rescale values differ from slice to slice",
}
REFUSED_SERIES = {
    "not_a_volume_siemens_ct": "one of 4 pictures of one place",
    "slice_increment_varies_ge_ct": "missing or unevenly spaced",
    "slice_missing_siemens_ct": "1 slice.s. missing between instance 3 and instance 5",
    "slice_orientation_mixed_philips_mr": "holds 2 volumes: 2 slices",
    "colour_secondary_capture": "a colour picture",
    "gantry_tilt_variable_ge_head_ct": "uneven distance between instance 15 and instance 16 .* 7.00 mm instead of 4.00",
    "ct_one_slice": "a single slice whose thickness is not in its header",
    "thorax_missing_slice": "missing between instance 18 and instance 16 .*16.00 mm instead of 8.00",
    "thorax_two_series_one_folder": "files of 2 series: 8 slices, 8 slices",
    "thorax_two_phases_one_series": "holds 2 volumes: 8 slices .temporal position no. 1",
    "thorax_one_slice_smaller": "instance 17 has 32x32 pixels, the others 64x64",
    "thorax_no_positions": "no position and orientation in space",
    "thorax_two_patients": "files of 2 patients under one series",
    "thorax_damaged_files": "3 of 9 files cannot be used",
}
READ_FILES = [
    "enhanced/legacy_enhanced_ct_23x38x3.dcm", "enhanced/legacy_enhanced_ct_24x38x3.dcm",
    "enhanced/eCT_Supplemental.dcm", "enhanced/enhanced_mr_4d_siemens/011-0001.img",
    "enhanced/enhanced_mr_4d_siemens/011-0002.img", "single/pet_jpeg_lossless.dcm",
    "transfer_syntaxes/CT1_J2KI.dcm", "broken/bad_sequence.dcm", "broken/no_preamble.dcm",
]  # fmt: skip
REFUSED_FILES = {
    "single/results_page_philips.dcm": "a colour picture",
    "single/ct_as_secondary_capture.dcm": "no position and orientation",
    "single/us_rgb.dcm": "a colour picture",
    "single/palette_colour.dcm": r"a colour picture \(palette\)",
    "single/ct_screen_rgb.dcm": "a colour picture",
    "single/ct_ankle_no_extension": "no position and orientation",
    **{
        f"enhanced/emri_small{kind}.dcm": "10 frames without a position"
        for kind in ("", "_RLE", "_jpeg_ls_lossless", "_jpeg_2k_lossless", "_big_endian")
    },
    "enhanced/emri_small_jpeg_2k_lossless_too_short.dcm": "10 frames without a position",
    "enhanced/parametric_map_float.dcm": "a secondary picture without a place",
    "enhanced/parametric_map_double_float.dcm": "a secondary picture without a place",
    "seg/dcmqi_liver.dcm": "a segmentation, not an image",
    "seg/sm_image_grayscale.dcm": "a slide made of tiles",
    "rt/rtstruct_small.dcm": "contours, not an image",
    "rt/rtplan.dcm": "a plan, not an image",
    "reports/sr_document.dcm": "a report without pixels",
    "reports/sr_measurements.dcm": "a report without pixels",
    "reports/test_SR.dcm": "a report without pixels",
    "reports/real_world_value_mapping.dcm": "no pixels",
    "reports/sm_annotations.dcm": "annotations, not an image",
    "transfer_syntaxes/MR4_JPLY.dcm": "transfer syntax JPEG Extended .* cannot be decoded",
    "transfer_syntaxes/deflated.dcm": "a secondary picture without a place",
    "broken/1403-OB.dcm": "a secondary picture without a place",
    "broken/GH1146.dcm": "no pixels",
    "broken/GH178.dcm": "no pixels",
    "broken/GH179A.dcm": "no pixels",
    "broken/GH179B.dcm": "no pixels",
    "broken/GH220.dcm": "no pixels",
    "broken/GH223.dcm": "no pixels",
    "broken/GH487.dcm": "no pixels",
    "broken/GH626.dcm": "no pixels",
    "broken/GH340.dcm": "not a DICOM file",
    "broken/Issue1097_FailToOpenDeflatedFileWithSQ.dcm": "Rows is missing",
    "broken/dwv-test_no-number-rows.dcm": "Rows is missing",
    "broken/genFile.dcm": "no position and orientation",
    "broken/empty.dcm": r"empty file \(0 bytes\)",
    "broken/text.dcm": "not a DICOM file",
    "broken/truncated_in_header.dcm": "damaged header",
    "broken/truncated_in_pixels.dcm": "pixel data is 3 kB short",
}
READ_SEGS = {
    "binary_23x38x3.seg": {"Liver": 322},
    "binary_24x38x3.seg": {"Liver": 315},
    "dcmqi_liver.dcm": {"Liver": 107098},
    "dcmqi_seg.dcm": {"Neoplasm, Primary": 795},
    "dcmqi_sparse-labelmap-noppv.dcm": {"Liver": 630},
    "dcmqi_sparse-labelmap-ppv5.dcm": {"Liver": 630},
    "pydicom_liver_expb.dcm": {"Liver": 107098},
    "pydicom_liver_j2k.dcm": {"Liver": 107098},
    "pydicom_liver_nonbyte_aligned.dcm": {"Liver": 107098},
    "seg_image_ct_binary.dcm": {"first segment": 638},
    "seg_image_ct_binary_fractional.dcm": {"first segment": 638},
    "seg_image_ct_binary_overlap.dcm": {"first segment": 64, "second segment": 16},
    "seg_image_ct_binary_single_frame.dcm": {"first segment": 1832},
}
REFUSED_SEGS = {
    "pydicom_liver_deflate.dcm": "transfer syntax .* cannot be decoded",
    "pydicom_liver_rle.dcm": "transfer syntax RLE Lossless cannot be decoded",
    "seg_image_ct_true_fractional.dcm": r"holds fractions \(probabilities\)",
    "seg_image_cr_binary.dcm": "frames without a position in space",
    "seg_image_sm_control_labelmap.dcm": "frames without a position in space",
    "seg_image_sm_control_labelmap_palette_color.dcm": "frames without a position in space",
    "ct_image.dcm": "is a DICOM file but no segmentation",
}


SYNTAXES = ["J2KR", "JLSL", "JPLL", "RLE", "J2KI", "JLSN"]
ELSEWHERE = [
    "single/cr_monochrome1.dcm", "single/localizer_philips.dcm", "seg/dcmqi_partial_overlaps.dcm",
    "reports/DICOMDIR", "rt/rtstruct_dummy.dcm", "rt/rtstruct_invalid_reference.dcm",
    "transfer_syntaxes/MR4_UNC.dcm",
]  # fmt: skip
"""Files that a test of their own reads."""


@pytest.fixture(scope="module")
def folder(shared_data):
    return shared_data / "misc_dicom"


def files_of(folder, name):
    return sorted(f for f in (folder / "series" / name).rglob("*") if f.is_file())


@pytest.mark.parametrize("name", READ_SERIES)
def test_sound_series_are_read_with_their_spacing(folder, name):
    shape, spacing = READ_SERIES[name]
    image = read_series(files_of(folder, name))
    assert image.geometry.shape == shape
    assert image.geometry.spacing == pytest.approx(spacing, abs=0.001)


@pytest.mark.parametrize(("name", "note"), NOTED_SERIES.items())
def test_doubtful_series_are_read_with_a_note(folder, name, note):
    assert any(note in said for said in read_series(files_of(folder, name)).notes)


@pytest.mark.parametrize(("name", "message"), REFUSED_SERIES.items())
def test_what_is_no_volume_is_refused_in_words(folder, name, message):
    with pytest.raises(UserError) as caught:
        read_series(files_of(folder, name))
    assert re.search(message, str(caught.value))


@pytest.mark.parametrize("name", READ_FILES)
def test_single_files_with_a_place_are_read(folder, name):
    image = read_image(folder / name)
    assert image.array.shape[1:] == image.geometry.shape


@pytest.mark.parametrize(("name", "message"), REFUSED_FILES.items())
def test_single_files_that_are_no_image_are_refused_in_words(folder, name, message):
    with pytest.raises(UserError, match=message):
        read_series([folder / name])


@pytest.mark.parametrize("fault", ["duplicate_file", "duplicate_slice", "rescale_varies", "instance_numbers_wrong", "spacing_between_slices_negative", "thickness_disagrees"])  # fmt: skip
def test_the_faults_of_one_series_do_not_change_its_voxels(folder, fault):
    clean, faulty = (read_series(files_of(folder, f"thorax_{name}")) for name in ("clean", fault))
    # Halved for storage with slope 2, odd values lose one HU.
    np.testing.assert_allclose(clean.array, faulty.array, atol=1 if fault == "rescale_varies" else 0)
    assert clean.geometry.same_grid(faulty.geometry)


@pytest.mark.parametrize("size", ["23x38x3", "24x38x3"])
def test_a_multi_frame_file_equals_its_series(folder, size):
    series = read_series(files_of(folder, f"ct_{size}"))
    frames = read_image(folder / "enhanced" / f"legacy_enhanced_ct_{size}.dcm")
    np.testing.assert_array_equal(series.array, frames.array)
    assert series.geometry.same_grid(frames.geometry)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_compressed_pictures_equal_the_plain_one(folder, syntax):
    plain, packed = (read_image(folder / "transfer_syntaxes" / f"MR4_{s}.dcm") for s in ("UNC", syntax))
    apart = np.abs(packed.array - plain.array)
    assert apart.max() == 0 if syntax not in ("J2KI", "JLSN") else 0 < np.median(apart) < 60


def test_a_film_is_read_as_a_picture_with_bright_bones(folder):
    image = read_image(folder / "single" / "cr_monochrome1.dcm")
    assert image.geometry.unit == "px"
    assert image.array.shape == (1, 440, 440)
    assert any("MONOCHROME1" in note for note in image.notes)


@pytest.mark.parametrize("number", [1, 3])
def test_a_series_equals_the_nifti_it_was_made_from(shared_data, number):
    place = shared_data / "hippocampus"
    series = read_image(place / "dicom" / f"hippocampus_{number:03d}")
    volume = nib.load(place / "images" / f"hippocampus_{number:03d}.nii.gz")
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), -1).reshape(-1, 3)
    there = series.geometry.to_index(nib.affines.apply_affine(volume.affine, index))
    assert np.abs(there - np.rint(there)).max() < 0.01
    found = series.array[0][tuple(np.rint(there).astype(int).T)]
    np.testing.assert_allclose(found, volume.get_fdata().ravel())


def test_real_chest_series_are_read_in_hu_on_the_grid_of_their_label(shared_data):
    place = shared_data / "chest_ct_dicom"
    thorax = read_geometry(place / "thorax_siemens_sensation10_8mm")
    assert thorax.shape == (512, 512, 30)
    assert thorax.spacing == pytest.approx((0.646, 0.646, 8.0), abs=0.001)
    abdomen = read_image(place / "abdomen_siemens_mct_2mm")
    assert (abdomen.modality, abdomen.array.dtype) == ("CT", np.int16)
    label = read_segmentation(place / "abdomen_siemens_mct_2mm_labels.nii.gz")
    moved = place_on(label, abdomen.geometry)
    assert moved.geometry.same_grid(abdomen.geometry)
    for value, low, high in ((5, 60, 130), (1, 60, 130), (32, 200, 400)):  # liver, spleen, vertebra
        assert low < abdomen.array[0][moved.labels == value].mean() < high


def test_scanning_accounts_for_every_file_of_the_collection(folder):
    series, left = scan(folder)
    everything = sorted(p for p in folder.rglob("*") if p.is_file())
    assert sorted([f for s in series for f in s.files] + [item.file for item in left]) == everything
    assert all(item.reason for item in left)
    localizer = next(s for s in series if s.files[0].name == "localizer_philips.dcm")
    choice = choose([localizer], Select.model_validate({}))
    assert choice.kept == ()


@pytest.mark.parametrize(("name", "counts"), READ_SEGS.items())
def test_segmentations_of_others_are_read_with_names_and_counts(folder, name, counts):
    seg = read_seg(folder / "seg" / name)
    assert {c.name: int(seg.mask(n).sum()) for n, c in enumerate(seg.classes)} == counts


@pytest.mark.parametrize(("name", "message"), REFUSED_SEGS.items())
def test_segmentations_that_are_no_labels_of_a_volume_are_refused(folder, name, message):
    with pytest.raises(UserError, match=message):
        read_seg(folder / "seg" / name)


def test_overlapping_segments_become_regions_with_a_note(folder):
    seg = read_seg(folder / "seg" / "dcmqi_partial_overlaps.dcm")
    assert seg.regions is not None
    assert seg.regions.shape[0] == 5
    assert seg.regions.sum(axis=0).max() > 1
    assert any("overlap" in note for note in seg.provenance["notes"])


def test_a_segmentation_of_others_falls_on_its_series(folder):
    image = read_series(files_of(folder, "ct_3slice"))
    seg = read_segmentation(folder / "seg" / "dcmqi_liver.dcm", onto=image.geometry)
    assert seg.geometry.same_grid(image.geometry)
    liver = image.array[0][seg.labels == 1]
    assert 30 < np.median(liver) < 200


@pytest.mark.parametrize("size", ["23x38x3", "24x38x3"])
def test_odd_sized_segmentations_fall_on_their_series(folder, size):
    image = read_series(files_of(folder, f"ct_{size}"))
    seg = read_segmentation(folder / "seg" / f"binary_{size}.seg", onto=image.geometry)
    assert seg.geometry.same_grid(image.geometry)


def test_every_line_of_the_collection_s_table_has_its_test(folder):
    table = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|")[1].strip() for line in table if line.startswith("| ")]
    named = {row for row in rows if "/" in row}
    tested = {f"series/{name}" for name in (*READ_SERIES, *NOTED_SERIES, *REFUSED_SERIES)}
    tested |= {*READ_FILES, *REFUSED_FILES, *ELSEWHERE} | {
        f"seg/{name}" for name in (*READ_SEGS, *REFUSED_SEGS)
    }
    tested |= {f"transfer_syntaxes/MR4_{syntax}.dcm" for syntax in SYNTAXES}
    assert sorted(row for row in named if row.removesuffix("/0.dcm") not in tested) == []
