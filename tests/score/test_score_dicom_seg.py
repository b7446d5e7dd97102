"""DICOM segmentations, which leave out empty frames and classes, are compared on the whole grid."""

import nibabel as nib
import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.io.dicom.seg import write_seg
from medseg.io.dicom.write_series import write_ct_series
from medseg.io.doors import write_segmentation
from medseg.score.folders import score_folders

GRID = Geometry.from_spacing((24, 20, 10), (1.0, 1.0, 2.5), origin=(-12, -10, 40))
CLASSES = (ClassInfo("Liver", 1, (200, 80, 80)), ClassInfo("Spleen", 2, (80, 80, 200)))


def labels(spleen=True, low=2, high=6):
    array = np.zeros(GRID.shape, dtype=np.uint8)
    array[2:10, 2:10, low:high] = 1
    if spleen:
        array[12:18, 4:10, 5:8] = 2
    return Segmentation(array, GRID, CLASSES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two cases as SEG and as NIfTI; the second prediction has no spleen and a liver of half the height."""
    root = tmp_path_factory.mktemp("seg")
    source = write_ct_series(np.zeros(GRID.shape, np.int16), GRID, root / "ct")
    for case, predicted in (("a", labels()), ("b", labels(spleen=False, high=4))):
        for side, seg in (("pred", predicted), ("true", labels())):
            for kind in ("seg", "nifti"):
                (root / f"{side} {kind}").mkdir(exist_ok=True)
            write_seg(seg, source, root / f"{side} seg" / f"{case}.dcm")
            write_segmentation(seg, root / f"{side} nifti" / f"{case}.nii.gz")
    return root


@pytest.mark.parametrize(
    ("pred", "true"), [("seg", "seg"), ("seg", "nifti"), ("nifti", "seg"), ("nifti", "nifti")]
)
def test_a_segmentation_scores_the_same_in_either_format(folders, pred, true):
    facts = score_folders(folders / f"pred {pred}", folders / f"true {true}")
    assert facts["failed"] == {}
    livers, spleens = facts["per_class"].values()
    assert livers["dice"] == pytest.approx((1 + 2 / 3) / 2)
    assert (spleens["dice"], spleens["misses"], spleens["n"]) == (0.5, 1, 2)


def test_classes_of_a_dicom_segmentation_are_matched_by_name_with_another(folders):
    facts = score_folders(folders / "pred seg", folders / "true seg")
    assert list(facts["per_class"]) == ["Liver", "Spleen"]


def test_a_mask_beyond_the_other_grid_is_refused_and_not_cut(folders, tmp_path):
    short = labels().geometry.cropped((0, 0, 0), (24, 20, 4))
    nib.save(nib.Nifti1Image(labels().labels[:, :, :4], short.affine), tmp_path / "a.nii.gz")
    from medseg.core.errors import UserError

    with pytest.raises(UserError, match="different shapes"):
        score_folders(folders / "pred seg" / "a.dcm", tmp_path / "a.nii.gz")
