"""Real label maps of the hippocampus: against themselves, against a shifted copy, against another organ's grid."""

import re
import shutil

import nibabel as nib
import numpy as np
import pytest

from medseg.core.errors import UserError
from medseg.score.folders import score_folders, text_of


@pytest.fixture
def labels(shared_data):
    return sorted((shared_data / "hippocampus" / "labels").glob("*.nii.gz"))[:6]


def test_real_labels_agree_with_themselves(labels, tmp_path):
    for path in labels:
        shutil.copy(path, tmp_path / path.name)
    facts = score_folders(tmp_path, labels[0].parent)
    assert facts["cases"]["done"] == len(labels)
    assert facts["mean"] == {"dice": 1.0, "iou": 1.0, "hd95_mm": 0.0, "nsd": 1.0, "volume_error_percent": 0.0}
    assert len(facts["only_in_reference"]) > 100
    assert re.search(r"\d+ only in the reference, no prediction: .* and \d+ more", text_of(facts))


def test_a_shift_of_one_voxel_is_a_surface_distance_of_one_voxel(labels, tmp_path):
    image = nib.load(labels[0])
    moved = np.roll(np.asarray(image.dataobj).astype(np.uint8), 1, axis=0)
    nib.save(nib.Nifti1Image(moved, image.affine), tmp_path / labels[0].name)
    facts = score_folders(tmp_path, labels[0].parent)
    assert facts["mean"]["hd95_mm"] == pytest.approx(image.header.get_zooms()[0])
    assert 0.8 < facts["mean"]["dice"] < 1.0
    assert facts["mean"]["volume_error_percent"] == 0.0


def test_the_label_of_another_grid_is_refused(shared_data):
    folder = shared_data / "hippocampus"
    with pytest.raises(
        UserError, match=r"the prediction and the reference (have different shapes|are .* mm apart)"
    ):
        score_folders(
            folder / "awkward" / "hippocampus_281_label_of_another_organ_and_grid.nii.gz",
            folder / "labels" / "hippocampus_280.nii.gz",
        )
