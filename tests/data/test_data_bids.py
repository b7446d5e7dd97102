"""BIDS folders: images by suffix, labels beside them or in derivatives, subjects as patients."""

from pathlib import Path

import pytest

from medseg.config import Data
from medseg.core.errors import Question, UserError
from medseg.data.cohort import find_cases


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def labels_of(cohort):
    return {row.case: {k: Path(v).name for k, v in row.labels.items()} for row in cohort.rows}


def test_labels_in_derivatives_belong_to_the_image_of_their_subject(tmp_path):
    for sub in ("01", "02"):
        touch(
            tmp_path,
            f"sub-{sub}/anat/sub-{sub}_T1w.nii.gz",
            f"derivatives/hand/sub-{sub}/anat/sub-{sub}_desc-hand_dseg.nii.gz",
        )
    cohort = find_cases(Data(), tmp_path)
    assert cohort.layout == "BIDS: T1w images"
    assert labels_of(cohort) == {
        "sub-01": {"label": "sub-01_desc-hand_dseg.nii.gz"},
        "sub-02": {"label": "sub-02_desc-hand_dseg.nii.gz"},
    }
    assert cohort.patients_known


def test_sessions_are_cases_of_one_patient_and_labels_keep_to_their_session(tmp_path):
    for ses in (1, 2):
        name = f"sub-a/ses-{ses}/anat/sub-a_ses-{ses}"
        touch(tmp_path, f"{name}_FLAIR.nii.gz", f"{name}_space-FLAIR_label-lesion_mask.nii.gz")
    cohort = find_cases(Data(), tmp_path)
    assert cohort.n_patients == 1
    assert labels_of(cohort) == {
        f"sub-a_ses-{ses}": {"label": f"sub-a_ses-{ses}_space-FLAIR_label-lesion_mask.nii.gz"}
        for ses in (1, 2)
    }


def several(root):
    for sub in ("01", "02"):
        touch(
            root,
            *(f"sub-{sub}/anat/sub-{sub}_{suffix}.nii.gz" for suffix in ("FLAIR", "T1w")),
            f"derivatives/x/sub-{sub}/anat/sub-{sub}_space-T1w_dseg.nii.gz",
        )
    return root


def test_several_kinds_of_images_are_asked_about_the_labelled_kind_first(tmp_path):
    with pytest.raises(Question) as question:
        find_cases(Data(), several(tmp_path))
    assert question.value.what == "2 kinds of images, and nothing says which to segment"
    assert [setting for _, setting in question.value.choices] == [
        "data.channels=[T1w]",
        "data.channels=[FLAIR]",
        "data.channels=[T1w, FLAIR]",
    ]


def test_a_kind_that_was_chosen_is_taken_with_its_own_labels_only(tmp_path):
    several(tmp_path)
    cohort = find_cases(Data(channels=["T1w"]), tmp_path)
    assert labels_of(cohort)["sub-01"] == {"label": "sub-01_space-T1w_dseg.nii.gz"}
    assert "images of other kinds not used: FLAIR (data.channels names the wanted)" in cohort.notes
    cohort = find_cases(Data(channels=["FLAIR"]), tmp_path)
    assert labels_of(cohort)["sub-01"] == {}
    assert ("sub-01_space-T1w_dseg.nii.gz", "a label of another kind of image") in cohort.left_out


def test_two_kinds_are_stacked_and_a_missing_one_is_the_case_s_fault(tmp_path):
    several(tmp_path)
    (tmp_path / "sub-02/anat/sub-02_FLAIR.nii.gz").unlink()
    cohort = find_cases(Data(channels=["T1w", "FLAIR"]), tmp_path)
    assert [len(row.images) for row in cohort.rows] == [2, 1]
    assert [row.trouble for row in cohort.rows] == ["", "no file of this case with the suffix FLAIR"]


def test_a_kind_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="no image has the suffix T2w; there are FLAIR, T1w"):
        find_cases(Data(channels=["T2w"]), several(tmp_path))


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("sub-01_space-MNI152_dseg.nii.gz", "a label in the space MNI152, not on the subject's own image"),
        ("sub-09_dseg.nii.gz", "a label that fits 0 images"),
    ],
)
def test_labels_that_belong_to_no_image_are_left_out_with_the_reason(tmp_path, label, reason):
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", f"derivatives/x/sub-01/anat/{label}")
    cohort = find_cases(Data(), tmp_path)
    assert labels_of(cohort) == {"sub-01": {}}
    assert (label, reason) in cohort.left_out


def test_labels_of_several_structures_are_columns(tmp_path):
    touch(
        tmp_path,
        "sub-01/anat/sub-01_T1w.nii.gz",
        *(f"derivatives/x/sub-01/anat/sub-01_label-{what}_mask.nii.gz" for what in ("brain", "lesion")),
    )
    assert labels_of(find_cases(Data(), tmp_path))["sub-01"] == {
        "label_brain": "sub-01_label-brain_mask.nii.gz",
        "label_lesion": "sub-01_label-lesion_mask.nii.gz",
    }
