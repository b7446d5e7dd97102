"""Folders as people have them, with spaces, umlauts and Chinese in their paths: found, paired, nothing lost."""

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.config import Data, Select
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.data.cohort import find_cases, resolved
from medseg.data.layouts.names import match_stems

ODD = "Daten für 肺 (neu)"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def pairs_of(cohort):
    return {
        row.case: (
            tuple(Path(c[0]).name for c in row.images),
            {k: Path(v).name for k, v in row.labels.items()},
        )
        for row in cohort.rows
    }


@pytest.fixture
def root(tmp_path):
    return tmp_path / ODD


def test_image_and_label_folders_of_equal_names_are_paired(root):
    touch(root, "images/a.nii.gz", "images/b.nii.gz", "labels/a.nii.gz", "labels/c.nii.gz")
    cohort = find_cases(Data(), root)
    assert pairs_of(cohort) == {"a": (("a.nii.gz",), {"label": "a.nii.gz"}), "b": (("b.nii.gz",), {})}
    assert cohort.left_out == (("c.nii.gz", "a label without an image"),)


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        (["img_001", "img_002"], ["mask_001", "mask_002"], {"img_001": "mask_001", "img_002": "mask_002"}),
        (["p1_0000", "p2_0000"], ["p1", "p2"], {"p1_0000": "p1", "p2_0000": "p2"}),
        (["p1", "p2"], ["p1_seg", "p2_seg"], {"p1": "p1_seg", "p2": "p2_seg"}),
        (
            ["t2_a1", "t2_b2"],
            ["drawn-a1-ok", "drawn-b2-ok"],
            {"t2_a1": "drawn-a1-ok", "t2_b2": "drawn-b2-ok"},
        ),
        (["肺_01", "肺_02"], ["肺_01_mask", "肺_02_mask"], {"肺_01": "肺_01_mask", "肺_02": "肺_02_mask"}),
        (["case1", "case10"], ["case1", "case10"], {"case1": "case1", "case10": "case10"}),
        (["a", "b"], ["x", "y"], {}),
    ],
)
def test_names_of_image_and_label_are_matched_one_to_one(images, labels, expected):
    assert match_stems(images, labels) == expected


def test_a_name_that_fits_two_is_not_matched():
    assert match_stems(["img_1", "image_1"], ["mask_1"]) == {}


def test_labels_in_several_folders_are_columns(root):
    touch(root, "images/a.png", "labels_lung/a.png", "labels_heart/a.png")
    assert pairs_of(find_cases(Data(), root))["a"][1] == {"label_heart": "a.png", "label_lung": "a.png"}


def test_image_folders_by_channel_are_stacked_and_a_missing_one_is_the_case_s_fault(root):
    touch(root, "images_t1/a.nii.gz", "images_t2/a.nii.gz", "images_t1/b.nii.gz", "labels/a.nii.gz")
    cohort = find_cases(Data(), root)
    assert cohort.channels == ("t1", "t2")
    troubles = {row.case: row.trouble for row in cohort.rows}
    assert troubles == {"a": "", "b": "no file of this case in images_t2"}


def test_train_val_and_test_folders_give_the_split(root):
    touch(
        root,
        *(f"{s}/{k}/x{i}.png" for i, s in enumerate(("train", "val", "test")) for k in ("images", "masks")),
    )
    assert {r.case: r.split for r in find_cases(Data(), root).rows} == {
        "x0": "train",
        "x1": "val",
        "x2": "test",
    }


def test_equal_names_in_split_folders_stay_apart(root):
    touch(root, *(f"{s}/{k}/1.png" for s in ("train", "test") for k in ("images", "labels")))
    assert {r.case for r in find_cases(Data(), root).rows} == {"train_1", "test_1"}


def test_images_and_labels_in_one_folder_are_told_apart(root):
    touch(root, "p1_image.nii.gz", "p1_label.nii.gz", "p2_image.nii.gz", "p3_mask.nii.gz")
    cohort = find_cases(Data(), root)
    assert pairs_of(cohort) == {
        "p1_image": (("p1_image.nii.gz",), {"label": "p1_label.nii.gz"}),
        "p2_image": (("p2_image.nii.gz",), {}),
    }
    assert cohort.left_out == (("p3_mask.nii.gz", "a label without an image"),)


def test_a_folder_a_case_is_named_by_its_folder(root):
    touch(root, "p1/ct.nii.gz", "p1/seg.nii.gz", "p2/ct.nii.gz", "p3/a.nii.gz", "p3/b.nii.gz")
    cohort = find_cases(Data(), root)
    assert pairs_of(cohort) == {"p1": (("ct.nii.gz",), {"label": "seg.nii.gz"}), "p2": (("ct.nii.gz",), {})}
    assert cohort.left_out[0][0] == "p3"
    assert "holds 2 images and 0 labels" in cohort.left_out[0][1]


def test_folders_of_any_names_are_told_apart_by_their_values(root, volume, scan, mask):
    for name in ("1", "2"):
        volume(root / "zeichnung" / f"{name}.nii.gz", mask)
        volume(root / "aufnahme" / f"{name}.nii.gz", scan)
    (row, _) = find_cases(Data(), root).rows
    assert Path(row.images[0][0]).parent.name == "aufnahme"
    assert Path(row.labels["label"]).parent.name == "zeichnung"


def test_images_alone_are_cases_without_labels(root):
    cohort = find_cases(Data(), touch(root, "b.png", "a.png", ".DS_Store", "notes.txt"))
    assert pairs_of(cohort) == {"a": (("a.png",), {}), "b": (("b.png",), {})}


def test_two_files_of_one_name_are_not_both_taken(root):
    cohort = find_cases(Data(), touch(root, "a.png", "a.tif"))
    assert cohort.left_out == (("a.tif", "the same name as a.png with another ending"),)


def test_one_file_is_one_case(root):
    touch(root, "scan.nii.gz")
    assert pairs_of(find_cases(Data(), root / "scan.nii.gz")) == {"scan": (("scan.nii.gz",), {})}


def test_a_loop_of_links_ends(root):
    touch(root, "images/a.png", "labels/a.png")
    (root / "images" / "loop").symlink_to(root)
    assert len(find_cases(Data(), root).rows) == 1


def decathlon(root: Path, **changes) -> Path:
    touch(
        root,
        "imagesTr/h1.nii.gz",
        "labelsTr/h1.nii.gz",
        "imagesTr/h2.nii.gz",
        "labelsTr/h2.nii.gz",
        "imagesTs/h3.nii.gz",
    )
    facts = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": [
            {"image": f"./imagesTr/h{i}.nii.gz", "label": f"./labelsTr/h{i}.nii.gz"} for i in (1, 2)
        ],
        "test": ["./imagesTs/h3.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps({**facts, **changes}))
    return root


def test_a_decathlon_task_brings_classes_and_modality(root):
    decathlon(root)
    cohort = find_cases(Data(), root)
    assert cohort.layout == "Decathlon (dataset.json)"
    assert [(c.name, c.index) for c in cohort.classes] == [("Anterior", 1), ("Posterior", 2)]
    assert [bool(r.labels) for r in cohort.rows] == [True, True, False]
    assert resolved(Data(), root).modality == "mr"
    assert resolved(Data(modality="ct"), root).modality == "ct"


def test_a_decathlon_file_that_is_missing_is_its_case_s_fault(root):
    decathlon(root)
    (root / "labelsTr" / "h2.nii.gz").unlink()
    assert (
        find_cases(Data(), root).rows[1].trouble
        == "training[1] of dataset.json: the label file does not exist"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": [{"image": "../../secret.nii.gz"}]}, "leads out of the data set's folder"),
        ({"training": [{"label": "a"}]}, "expected an image and a label path"),
        ({"labels": {"liver": "one"}}, "is no class and value"),
    ],
)
def test_a_bad_dataset_json_is_refused_in_words(root, changes, message):
    with pytest.raises(UserError, match=message):
        find_cases(Data(), decathlon(root, **changes))


def test_a_damaged_dataset_json_is_named(root):
    decathlon(root)
    (root / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="is not valid JSON"):
        find_cases(Data(), root)


def test_an_nnunet_folder_stacks_its_channels(root):
    touch(root, *(f"imagesTr/p{i}_000{c}.nii.gz" for i in (1, 2) for c in (0, 1)), "labelsTr/p1.nii.gz")
    touch(
        root, "labelsTr/p2.nii.gz", "imagesTs/p3_0000.nii.gz", "imagesTs/p3_0001.nii.gz", "labelsTr/p9.nii.gz"
    )
    (root / "imagesTr" / "p2_0001.nii.gz").unlink()
    facts = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "tumour": [1, 2], "core": 2, "ignore": 3},
    }
    (root / "dataset.json").write_text(json.dumps({**facts, "numTraining": 2, "file_ending": ".nii.gz"}))
    cohort = find_cases(Data(), root)
    assert cohort.channels == ("T1", "T2")
    assert {r.case: (len(r.images), bool(r.labels), r.trouble) for r in cohort.rows} == {
        "p1": (2, True, ""),
        "p2": (1, True, "channel 0001 of 2 is missing"),
        "p3": (2, False, ""),
    }
    assert cohort.left_out == (("p9.nii.gz", "a label without an image"),)
    data = resolved(Data(), root)
    assert (data.ignore, data.modality, data.overlapping) == (3, "mr", True)


def test_a_layout_that_the_folder_does_not_have_is_said(root):
    with pytest.raises(UserError, match="does not have the layout 'decathlon'"):
        find_cases(Data(layout="decathlon"), touch(root, "images/a.png"))


def test_a_table_in_the_folder_goes_first(root):
    touch(root, "images/a.png", "labels/a.png")
    (root / "manifest.csv").write_text("case,image\nonly,images/a.png\n")
    assert [r.case for r in find_cases(Data(), root).rows] == ["only"]


@pytest.mark.parametrize("name", ["empty", "gone"])
def test_a_folder_without_images_is_said(root, name):
    (root / "empty").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no images found here|no such folder"):
        find_cases(Data(), root / name)


def test_no_data_at_all_is_said(monkeypatch):
    monkeypatch.delenv("MEDSEG_DATA", raising=False)
    with pytest.raises(UserError, match="no data is named"):
        find_cases(Data())


def test_the_environment_names_the_folder(root, monkeypatch):
    monkeypatch.setenv("MEDSEG_DATA", str(touch(root, "images/a.png")))
    assert len(find_cases(Data()).rows) == 1


# --- DICOM --------------------------------------------------------------------------------------------------------


def series(folder: Path, patient: str, series_name: str = "1", slices: int = 6, seed: int = 0) -> None:
    from medseg.io.dicom.write_series import SeriesFacts, write_ct_series

    array = np.random.default_rng(seed).integers(-1000, 400, (8, 8, slices)).astype(np.int16)
    facts = SeriesFacts(study=patient, series=f"{patient}-{series_name}")
    write_ct_series(
        array, Geometry.from_spacing(array.shape, (1, 1, 2.5)), folder, patient=patient, facts=facts
    )


def test_a_dicom_tree_gives_a_case_a_study_under_hashed_names(root, volume, mask):
    series(root / "Müller Hans" / "ct", "CANARY^ONE")
    series(root / "Schmidt" / "ct2", "CANARY^TWO")
    volume(root / "Schmidt" / "ct2_label.nii.gz", mask, (1, 1, 2.5))
    (root / "Schmidt" / "ct2" / "empty.dcm").write_bytes(b"")
    cohort = find_cases(Data(), root, b"key")
    assert len(cohort.rows) == 2
    assert cohort.n_patients == 2
    assert all(r.case.startswith("case-") and r.patient.startswith("patient-") for r in cohort.rows)
    assert sorted(len(r.images[0]) for r in cohort.rows) == [6, 6]
    assert sum(bool(r.labels) for r in cohort.rows) == 1
    assert len(cohort.left_out) == 1
    shown = " ".join((*(r.case + r.patient for r in cohort.rows), *cohort.notes, *map(str, cohort.left_out)))
    assert not any(word in shown for word in ("CANARY", "Müller", "Schmidt"))
    again = find_cases(Data(), root, b"key")
    assert [r.case for r in again.rows] == [r.case for r in cohort.rows]
    assert [r.case for r in find_cases(Data(), root, b"other").rows] != [r.case for r in cohort.rows]


def test_names_are_kept_when_the_pipeline_asks_for_them(root):
    series(root / "scan one", "P")
    assert [r.case for r in find_cases(Data(ids="names"), root).rows] == ["scan one"]


def test_two_series_of_one_study_that_fit_equally_stop_and_ask(root):
    series(root / "a", "P", "1")
    series(root / "b", "P", "2", seed=1)
    with pytest.raises(UserError, match="fit equally well") as caught:
        find_cases(Data(), root)
    assert len([f for f in caught.value.faults if f.startswith("fits")]) == 2
    both = find_cases(Data(select=Select(tie="all")), root)
    assert len(both.rows) == 2
    assert both.n_patients == 1


def test_a_series_that_was_left_stands_in_a_table_with_its_reason(root):
    series(root / "a", "CANARY", "1")
    series(root / "b", "CANARY", "2", slices=3)
    cohort = find_cases(Data(), root)
    table = [note for note in cohort.notes if note.startswith(("kept", "left"))]
    assert len(table) == 2
    assert "6 slices  8x8  1x1x2.5 mm  axial" in table[0]
    assert table[1].endswith("(3 slices, fewer than data.select.min_slices: 5)")
    assert "CANARY" not in str(table)


def test_a_study_that_makes_no_volume_is_a_failed_case_not_a_lost_one(root):
    series(root / "good", "P")
    series(root / "bad", "Q")
    first = min((root / "bad").iterdir())
    first.write_bytes(first.read_bytes()[:-60])
    cohort = find_cases(Data(), root)
    assert len(cohort.rows) == 2
    (trouble,) = (row.trouble for row in cohort.rows if row.trouble)
    assert "1 of its files are damaged" in trouble


def test_names_of_the_bids_kind_tell_patients_apart(root):
    touch(root, *(f"images/sub-{p}_ses-{s}_T1w.nii.gz" for p in ("01", "02") for s in (1, 2)))
    cohort = find_cases(Data(ids="names"), root)
    assert [row.patient for row in cohort.rows] == ["sub-01", "sub-01", "sub-02", "sub-02"]
    assert not any("no patient key" in note for note in cohort.notes)


def test_a_journey_for_mr_leaves_ct_out_and_says_why(root):
    series(root / "a", "P")
    with pytest.raises(UserError, match="none of 1 DICOM series can be taken") as caught:
        find_cases(Data(modality="mr"), root)
    assert "modality CT, not MR" in str(caught.value)


def test_the_real_series_are_found(shared_data):
    cohort = find_cases(Data(modality="ct"), shared_data / "chest_ct_dicom")
    assert sorted(len(r.images[0]) for r in cohort.rows) == [20, 30]
    assert sum(bool(r.labels) for r in cohort.rows) == 1
    assert any("modality MR" in reason for _, reason in cohort.left_out)
