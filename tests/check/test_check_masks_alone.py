"""A folder of label maps that is given as if it held images is told so, and images are not taken for masks."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.check.folder import check_folder
from medseg.check.init import draft_pipeline
from medseg.check.voxels import looks_like_mask
from medseg.core.errors import UserError

SENTENCE = "these look like label masks"


def notes_with(facts: dict) -> list[str]:
    return [note for note in facts["notes"] if SENTENCE in note]


def test_a_folder_of_masks_alone_is_named_by_the_check(cohort):
    (note,) = notes_with(check_folder(cohort() / "labels"))
    assert note.startswith("all 4 images hold only few whole numbers (0 to 2)")
    assert note.endswith("give the folder of the images, or one above it that holds images and labels")


def test_images_are_not_called_masks(cohort):
    assert notes_with(check_folder(cohort())) == []
    assert notes_with(check_folder(cohort(name="more") / "images")) == []


def test_one_real_image_among_masks_says_nothing(cohort, volume, scan):
    labels = cohort() / "labels"
    volume(labels / "scan.nii.gz", scan)
    assert notes_with(check_folder(labels)) == []


def test_a_training_on_masks_alone_is_refused_with_the_reason(cohort, run_check):
    root = cohort() / "labels"
    with pytest.raises(UserError, match="none of 4 cases has a label") as caught:
        run_check(root=str(root), split={"by": "case"})
    assert SENTENCE in caught.value.faults[0]


def test_a_draft_for_masks_alone_says_so_at_its_top(cohort):
    root = cohort()
    assert f"# the images hold only few whole numbers: {SENTENCE}" in draft_pipeline(root / "labels")
    assert SENTENCE not in draft_pipeline(root / "images")
    assert SENTENCE not in draft_pipeline(root)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32])
def test_label_maps_of_any_number_type_are_recognised(kind, mask):
    assert looks_like_mask(mask[None].astype(kind))


def test_many_classes_in_patches_are_a_mask_and_grey_levels_are_none():
    blocks = np.kron(np.arange(27).reshape(3, 3, 3), np.ones((12, 12, 12), np.uint8)).astype(np.uint8)
    assert looks_like_mask(blocks[None])
    grey = np.random.default_rng(0).integers(0, 200, (16, 16, 16)).astype(np.uint8)
    assert not looks_like_mask(grey[None])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 4, 4, 4), np.uint8),
        np.full((1, 4, 4, 4), np.nan, np.float32),
        np.array([[[0.0, 0.5], [1.0, 0.0]]]),
        np.array([[[0, -1], [1, 0]]]),
        np.zeros((3, 8, 8), np.uint8),
    ],
    ids=["constant", "not finite", "fractions", "negative", "colour"],
)
def test_what_is_no_label_map_is_not_called_one(array):
    assert not looks_like_mask(array)
