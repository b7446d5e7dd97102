"""Every kind of damage has its sentence, its case is named, and the others go on."""

import numpy as np
import pytest

from medseg.core.atomic import read_json
from medseg.core.errors import UserError
from medseg.data.cohort import load_cohort

CLASSES = {"one": 1, "two": 2}


def reasons(result):
    return {**result.failed, **result.skipped}


def test_a_sound_cohort_passes_and_is_written_down(cohort, run_check):
    result, folder = run_check(root=str(cohort(5)), classes=CLASSES)
    assert result.counts() == {"done": 5, "failed": 0, "skipped": 0, "review": 0}
    assert result.line == "5 of 5 cases can be used"
    facts = read_json(folder.check_json)
    assert facts["class_cases"] == {"one": 5, "two": 5}
    assert facts["splits"] == {"train": 4, "val": 1}
    assert facts["orientation"] == {"RAS": 5}
    assert [c["name"] for c in facts["classes"]] == ["one", "two"]
    assert len(load_cohort(folder).rows) == 5


def test_a_label_three_slices_off_says_the_distance_and_both_grids(cohort, run_check, volume, mask):
    root = cohort()
    volume(root / "labels" / "case_1.nii.gz", mask, shift_mm=7.5)
    result, _ = run_check(root=str(root), classes=CLASSES)
    (reason,) = result.failed.values()
    assert "image and label are 7.50 mm apart (allowed: 0.01 voxel)" in reason
    assert "image: 8x8x6 voxels of 1x1x2.5 mm, RAS, first voxel at (0.0, 0.0, 0.0)" in reason
    assert "label: 8x8x6 voxels of 1x1x2.5 mm, RAS, first voxel at (0.0, 0.0, 7.5)" in reason
    assert result.done == 3


def test_all_labels_off_their_grid_stop_the_run_with_the_remedy(cohort, run_check, volume, mask):
    root = cohort(1)
    volume(root / "labels" / "case_0.nii.gz", mask, shift_mm=7.5)
    with pytest.raises(UserError, match="none of 1 cases can be used") as caught:
        run_check(root=str(root), classes=CLASSES)
    assert "7.50 mm apart" in str(caught.value)
    assert "data.grid: resample" in str(caught.value)


def test_a_label_off_its_grid_is_resampled_with_a_note_when_asked(cohort, run_check, volume, mask):
    root = cohort()
    volume(root / "labels" / "case_1.nii.gz", mask, shift_mm=2.5)
    result, folder = run_check(root=str(root), classes=CLASSES, grid="resample")
    assert result.done == 4
    assert any("resampled onto its image's grid" in note for note in read_json(folder.check_json)["notes"])


def test_a_label_of_another_shape_is_refused(cohort, run_check, volume, mask):
    root = cohort()
    volume(root / "labels" / "case_2.nii.gz", mask[:, :, :5])
    result, _ = run_check(root=str(root), classes=CLASSES)
    assert "image and label have different shapes" in result.failed["case_2"]


def test_values_outside_the_classes_are_listed_with_voxel_counts(cohort, run_check, volume, mask):
    root = cohort()
    mask[0, 0, :2] = 9
    volume(root / "labels" / "case_3.nii.gz", mask)
    result, _ = run_check(root=str(root), classes=CLASSES)
    assert (
        "label values that belong to no class: 9 (2 voxels); the classes are one 1, two 2"
        in result.failed["case_3"]
    )


def test_nearly_whole_labels_are_rounded_with_a_note(cohort, run_check, volume, mask):
    root = cohort()
    volume(root / "labels" / "case_0.nii.gz", mask * np.float32(1.0001))
    result, folder = run_check(root=str(root), classes=CLASSES)
    assert result.done == 4
    assert any("round" in note for note in read_json(folder.check_json)["notes"])


def test_nan_and_infinity_are_counted(cohort, run_check, volume, scan):
    root = cohort()
    scan = scan.astype(np.float32)
    scan[0, 0, :3] = [np.nan, np.inf, -np.inf]
    volume(root / "images" / "case_0.nii.gz", scan)
    result, _ = run_check(root=str(root), classes=CLASSES)
    assert "3 of 384 voxels (0.781 %) are NaN or infinite" in result.failed["case_0"]
    result, folder = run_check(root=str(root), classes=CLASSES, not_finite="replace")
    assert result.done == 4
    assert any("3 voxels that were NaN or infinite" in note for note in read_json(folder.check_json)["notes"])


def test_an_empty_label_is_for_review(cohort, run_check, volume, mask):
    root = cohort()
    volume(root / "labels" / "case_0.nii.gz", mask * 0)
    result, _ = run_check(root=str(root), classes=CLASSES)
    assert result.done == 4
    assert result.review == {"case_0": "the label is empty: no voxel of any class"}


def test_a_constant_image_is_for_review(cohort, run_check, volume, scan):
    root = cohort()
    volume(root / "images" / "case_0.nii.gz", scan * 0 + 7)
    result, _ = run_check(root=str(root), classes=CLASSES)
    assert result.review == {"case_0": "the image is constant: every voxel is 7"}


@pytest.mark.parametrize(("shift", "words"), [(1000, "nothing below 0"), (-4000, "rescaled twice")])
def test_numbers_that_no_ct_has_are_for_review(cohort, run_check, volume, scan, shift, words):
    root = cohort()
    volume(root / "images" / "case_0.nii.gz", scan + np.int16(shift))
    result, _ = run_check(root=str(root), classes=CLASSES, modality="ct")
    assert words in result.review["case_0"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda raw: b"", "empty"),
        (lambda raw: raw[: len(raw) // 2], "damaged"),
        (lambda raw: b"this is a text", "NIfTI"),
    ],
    ids=["zero bytes", "truncated", "text"],
)
@pytest.mark.parametrize("part", ["images", "labels"])
def test_a_damaged_file_fails_its_case_alone(cohort, run_check, damage, words, part):
    root = cohort()
    path = root / part / "case_1.nii.gz"
    path.write_bytes(damage(path.read_bytes()))
    result, _ = run_check(root=str(root), classes=CLASSES)
    assert list(result.failed) == ["case_1"]
    assert words in result.failed["case_1"]
    assert result.done == 3


def test_a_missing_channel_fails_its_case_alone(tmp_path, run_check, volume, scan, mask):
    for i in range(4):
        for channel in ("t1", "t2"):
            volume(tmp_path / f"images_{channel}" / f"c{i}.nii.gz", scan + np.int16(i))
        volume(tmp_path / "labels" / f"c{i}.nii.gz", mask)
    (tmp_path / "images_t2" / "c1.nii.gz").unlink()
    volume(tmp_path / "images_t2" / "c2.nii.gz", scan, shift_mm=3)
    result, _ = run_check(root=str(tmp_path), classes=CLASSES)
    assert result.failed["c1"] == "no file of this case in images_t2"
    assert "channel 2 and channel 1 are 3.00 mm apart" in result.failed["c2"]
    assert result.done == 2


def test_a_case_without_a_label_is_skipped_or_an_error(cohort, run_check):
    root = cohort()
    (root / "labels" / "case_0.nii.gz").unlink()
    result, _ = run_check(root=str(root), classes=CLASSES)
    assert result.skipped == {"case_0": "no label: neither trained nor scored on"}
    result, _ = run_check(root=str(root), classes=CLASSES, unlabelled="error")
    assert result.failed == {"case_0": "no label, and data.unlabelled is error"}


def test_classes_that_some_cases_lack_are_pointed_at(cohort, run_check, volume, mask):
    root = cohort()
    volume(root / "labels" / "case_0.nii.gz", (mask == 1).astype(np.uint8))
    _, folder = run_check(root=str(root), classes={**CLASSES, "three": 3})
    notes = read_json(folder.check_json)["notes"]
    assert any("classes that some labelled cases lack: two (3 of 4)" in note for note in notes)
    assert any("classes in none of 4 labelled cases: three" in note for note in notes)


def test_the_same_image_twice_is_for_review_and_leakage_is_said(cohort, run_check, volume, scan):
    root = cohort(5)
    for i in range(5):
        volume(root / "images" / f"case_{i}.nii.gz", scan)
    result, _ = run_check(root=str(root), classes=CLASSES)
    assert len(result.review) == 5
    assert all("the same image as case" in r and "in another split" in r for r in result.review.values())


def test_mixed_orientations_are_counted(cohort, run_check, scan, mask):
    import nibabel as nib

    root = cohort()
    for part, array in (("images", scan), ("labels", mask)):
        nib.save(nib.Nifti1Image(array, np.diag([-1, -1, 2.5, 1.0])), root / part / "case_0.nii.gz")
    result, folder = run_check(root=str(root), classes=CLASSES)
    assert result.done == 4
    assert read_json(folder.check_json)["orientation"] == {"RAS": 3, "LPS": 1}


def test_an_mr_in_a_ct_cohort_is_refused(tmp_path, run_check, scan, mask, volume):
    from medseg.core.geometry import Geometry
    from medseg.io.dicom.write_series import write_ct_series

    write_ct_series(scan, Geometry.from_spacing(scan.shape, (1, 1, 2.5)), tmp_path / "ct")
    (tmp_path / "m.csv").write_text("case,image\nx,ct\n")
    with pytest.raises(UserError, match=r"the image is CT by its header, but data\.modality is mr"):
        run_check("threshold-otsu", manifest=str(tmp_path / "m.csv"), modality="mr")


def test_classes_are_found_in_the_labels_where_nobody_named_them(cohort, run_check):
    result, folder = run_check(root=str(cohort()))
    loaded = load_cohort(folder)
    assert [(c.name, c.index) for c in loaded.classes] == [("class 1", 1), ("class 2", 2)]
    assert read_json(folder.check_json)["class_cases"] == {"class 1": 4, "class 2": 4}
    assert result.review == {}


def test_all_cases_bad_stop_the_run_with_each_reason(cohort, run_check):
    root = cohort(3)
    for path in (root / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of 3 cases can be used") as caught:
        run_check(root=str(root), classes=CLASSES)
    assert len(caught.value.faults) == 3
    assert "case case_0: " in str(caught.value)


def test_training_without_any_label_is_refused_with_the_remedy(cohort, run_check):
    root = cohort()
    for path in (root / "labels").iterdir():
        path.unlink()
    with pytest.raises(
        UserError, match="none of 4 cases has a label, and this journey trains a network"
    ) as caught:
        run_check(root=str(root), classes=CLASSES)
    assert "--model" in caught.value.hint


@pytest.mark.parametrize(("system", "predict"), [("threshold-otsu", None), ("3d-u-net", {"model": "model"})])
def test_cases_without_labels_can_be_predicted(cohort, run_check, system, predict):
    root = cohort()
    for path in (root / "labels").iterdir():
        path.unlink()
    result, _ = run_check(system, predict, root=str(root), classes=CLASSES)
    assert result.done == 4


def test_a_bad_label_does_not_stop_a_prediction(cohort, run_check, volume, mask):
    root = cohort()
    volume(root / "labels" / "case_1.nii.gz", mask + 40)
    result, folder = run_check("3d-u-net", {"model": "model"}, root=str(root), classes=CLASSES)
    assert result.done == 4
    assert "label not used: label values that belong to no class: 40" in result.review["case_1"]
    assert [bool(r.labels) for r in load_cohort(folder).rows] == [True, False, True, True]
