"""What a person has to look at before anything is believed: sides in doubt, numbers that no CT has, lost files."""

from __future__ import annotations

import nibabel as nib
import numpy as np

from medseg.check.folder import check_folder, settings_from
from medseg.core.atomic import read_json
from medseg.core.run import RunFolder


def test_a_header_whose_forms_disagree_on_sides_wants_a_look(cohort):
    root = cohort()
    path = root / "images" / "case_1.nii.gz"
    image = nib.load(path)
    other = image.affine.copy()
    other[0, 0] *= -1
    image.set_sform(image.affine, 1)
    image.set_qform(other, 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    facts = check_folder(root)
    assert "left and right are in doubt" in facts["review"]["case_1"]
    assert list(facts["review"]) == ["case_1"]


def test_a_metaimage_without_directions_wants_a_look(cohort, scan):
    root = cohort(2)
    (root / "labels" / "case_1.nii.gz").unlink()
    (root / "images" / "case_1.nii.gz").unlink()
    sizes = " ".join(map(str, scan.shape))
    head = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"ElementSpacing = 1 1 2.5\nDimSize = {sizes}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    (root / "images" / "case_1.mha").write_bytes(head.encode() + scan.tobytes(order="F"))
    assert (
        "no orientation in the header: left and right are in doubt" in check_folder(root)["review"]["case_1"]
    )


def test_a_link_to_nothing_is_a_failed_case_not_a_missing_one(cohort):
    root = cohort()
    path = root / "images" / "case_2.nii.gz"
    path.unlink()
    path.symlink_to(root / "annex" / "gone.nii.gz")
    facts = check_folder(root)
    assert facts["counts"]["failed"] == 1
    assert facts["failed"]["case_2"].startswith("no such file -> ")


def test_every_failed_case_is_told_its_remedy(cohort):
    root = cohort()
    (root / "images" / "case_0.nii.gz").write_bytes(b"")
    assert check_folder(root)["failed"] == {"case_0": "is empty (0 bytes) -> copy or export the file again"}


def test_a_bare_folder_is_checked_with_the_settings_that_were_given(cohort):
    root = cohort()
    facts = check_folder(root, settings_from(["data.classes={large: 1}"]))
    assert "label values that belong to no class: 2" in facts["review"]["case_0"]


def test_a_check_with_a_folder_leaves_its_tables_there(cohort, tmp_path):
    root = cohort()
    (root / "images" / "case_0.nii.gz").write_bytes(b"")
    facts = check_folder(root, settings_from(["data.ids=hashed"]), tmp_path / "found")
    folder = RunFolder(tmp_path / "found")
    rows = read_json(folder.sources)["rows"]
    (name,) = facts["failed"]
    assert next(row["images"][0][0] for row in rows if row["case"] == name).endswith("case_0.nii.gz")
    assert (folder.private / "failed.csv").is_file()
    assert read_json(folder.check_json)["failed"] == facts["failed"]
