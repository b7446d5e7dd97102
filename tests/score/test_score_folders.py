"""Two folders of masks: pairing by name, classes by meaning, and that nothing is left out in silence."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest

from medseg.core.errors import UserError
from medseg.score.folders import score_folders, text_of
from medseg.score.pairs import WHOLE, pair_up

AFFINE = np.diag([1.0, 1.0, 2.5, 1.0])


def mask(*boxes, shape=(12, 12, 8)):
    array = np.zeros(shape, dtype=np.uint8)
    for value, low, high in boxes:
        array[low:high, low:high, low:high] = value
    return array


def save(array, path, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def folders(tmp_path):
    """Three cases; in the second the prediction lacks structure 2."""
    pred, true = tmp_path / "pred", tmp_path / "wahr heit ä 肺"
    for case, boxes in {"a": [(1, 0, 4), (2, 5, 8)], "b": [(1, 0, 4)], "c": [(1, 0, 3), (2, 5, 8)]}.items():
        save(mask(*boxes), pred / f"{case}.nii.gz")
    for case in "abc":
        save(mask((1, 0, 4), (2, 5, 8)), true / f"{case}.nii.gz")
    return pred, true


def test_two_folders_are_scored_case_by_case(folders):
    facts = score_folders(*folders)
    assert facts["cases"] == {"done": 3, "failed": 0, "skipped": 0, "review": 0}
    assert facts["per_case"]["a"]["dice"] == 1.0
    assert facts["per_class"]["class 2"]["misses"] == 1
    assert facts["per_class"]["class 2"]["dice"] == pytest.approx(2 / 3)
    assert facts["worst"][0] == "b"
    assert facts["mean"]["hd95_mm"] > 0
    json.dumps(facts, allow_nan=False)


def test_what_was_paired_and_matched_is_said(folders):
    pred, true = folders
    save(mask(), pred / "extra.nii.gz")
    save(mask(), true / "only_here.nii.gz")
    text = text_of(score_folders(pred, true))
    assert "3 pairs of masks" in text
    assert "a: a.nii.gz with a.nii.gz" in text
    assert "1 only in the prediction, no reference: extra" in text
    assert "1 only in the reference, no prediction: only_here" in text
    assert "class 1: matched by number" in text
    assert "worst first (Dice): b (0.5), c" in text
    assert "95 % by case" in text


def test_scores_are_written_as_json_and_as_a_table(folders, tmp_path):
    facts = score_folders(*folders, out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["mean"] == facts["mean"]
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open(encoding="utf-8")))
    assert len(rows) == 6
    missed = next(row for row in rows if row["case"] == "b" and row["class"] == "class 2")
    assert (missed["reason"], missed["dice"]) == ("missed: absent in the prediction", "0.0")


def test_two_files_are_scored_whatever_their_names(folders):
    pred, true = folders
    facts = score_folders(pred / "a.nii.gz", true / "b.nii.gz")
    assert facts["mean"]["dice"] == 1.0


def test_one_folder_a_class_and_one_folder_a_case_score_like_a_label_map(folders, tmp_path):
    pred, true = folders
    by_class, by_case = tmp_path / "by class", tmp_path / "by case"
    for case in "abc":
        array = np.asarray(nib.load(pred / f"{case}.nii.gz").dataobj)
        for value, name in ((1, "class 1"), (2, "class 2")):
            save((array == value).astype(np.uint8), by_class / name / f"{case}.nii.gz")
            save((array == value).astype(np.uint8), by_case / case / f"{name}.nii.gz")
    expected = score_folders(pred, true)["per_class"]
    assert score_folders(by_class, true)["per_class"] == expected
    assert score_folders(by_case, true)["per_class"] == expected


def test_a_class_that_is_absent_from_one_file_is_missed_there_and_not_left_out(tmp_path):
    """Files with a name a class leave out what is empty: the organ is then missed, not unknown."""
    for case, names in {"a": ("liver", "spleen"), "b": ("liver",)}.items():
        for name in names:
            save(mask((1, 0, 4)), tmp_path / "pred" / case / f"{name}.nii.gz")
    for case in "ab":
        for name in ("Liver", "Spleen", "Kidney"):
            save(mask((1, 0, 4)), tmp_path / "true" / case / f"{name}.nii.gz")
    facts = score_folders(tmp_path / "pred", tmp_path / "true")
    assert facts["per_class"]["Spleen"]["misses"] == 1
    assert facts["per_class"]["Spleen"]["dice"] == 0.5
    assert facts["not_scored"] == {"Kidney": "only in the reference"}
    asked = score_folders(tmp_path / "pred", tmp_path / "true", classes=["kidney", "liver"])
    assert asked["per_class"]["Kidney"]["misses"] == 2
    assert asked["mean"]["dice"] == 0.5


def test_one_pair_that_cannot_be_compared_does_not_stop_the_others(folders):
    pred, true = folders
    moved = AFFINE.copy()
    moved[0, 3] = 30.0
    save(mask((1, 0, 4)), pred / "a.nii.gz", moved)
    facts = score_folders(pred, true)
    assert facts["cases"]["failed"] == 1
    assert "the prediction and the reference are 30.00 mm apart" in facts["failed"]["a"]
    assert facts["cases"]["done"] == 2


def test_when_no_pair_can_be_compared_both_grids_are_printed(folders, tmp_path):
    _, true = folders
    moved = AFFINE.copy()
    moved[0, 3] = 30.0
    odd = save(mask((1, 0, 4)), tmp_path / "x.nii.gz", moved)
    with pytest.raises(UserError, match=r"30.00 mm apart[\s\S]*12x12x8 voxels[\s\S]*12x12x8 voxels"):
        score_folders(odd, true / "a.nii.gz")


def test_ignored_values_count_nowhere(folders):
    pred, true = folders
    facts = score_folders(pred / "b.nii.gz", true / "b.nii.gz", ignore=2)
    assert list(facts["per_class"]) == ["class 1"]
    assert facts["mean"]["dice"] == 1.0


def test_a_structure_that_no_prediction_has_is_missed_in_bare_label_maps(folders):
    _, true = folders
    for case in "abc":
        save(mask((1, 0, 4)), folders[0] / f"{case}.nii.gz")
    facts = score_folders(folders[0], true)
    assert facts["per_class"]["class 2"]["misses"] == 3
    assert facts["mean"]["dice"] == 0.5


# --- pairing ------------------------------------------------------------------------------------------------------


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_names_are_compared_without_endings_capitals_and_forms_of_accents(tmp_path):
    touch(tmp_path / "p" / "Müller.nii.gz", tmp_path / "p" / "B.seg.nrrd")
    touch(tmp_path / "t" / "mu\u0308ller.mha", tmp_path / "t" / "b.nii")
    pairing = pair_up(tmp_path / "p", tmp_path / "t")
    assert len(pairing.pairs) == 2
    assert pairing.only_pred == pairing.only_true == ()


def test_of_one_case_in_two_formats_one_is_read(tmp_path):
    touch(
        tmp_path / "p" / "a.dcm",
        tmp_path / "p" / "a.nii.gz",
        tmp_path / "p" / "a.json",
        tmp_path / "t" / "a.nii.gz",
    )
    ((_, ours, _),) = pair_up(tmp_path / "p", tmp_path / "t").pairs
    assert ours[WHOLE].name == "a.nii.gz"


@pytest.mark.parametrize("ending", ["_pred", "_0000", ".seg", "-prediction", "_Mask"])
def test_words_that_say_what_a_file_is_do_not_tell_cases_apart(tmp_path, ending):
    for case in ("case_1", "case_2", "case_10"):
        touch(tmp_path / "p" / f"{case}{ending}.nii.gz", tmp_path / "t" / f"{case}.nii.gz")
    pairing = pair_up(tmp_path / "p", tmp_path / "t")
    assert [(case, ours[WHOLE].name) for case, ours, _ in pairing.pairs] == [
        (case, f"{case}{ending}.nii.gz") for case in ("case_1", "case_10", "case_2")
    ]


def test_equal_names_are_paired_before_alike_ones_and_what_fits_two_is_not_paired(tmp_path):
    touch(*(tmp_path / "p" / f"{name}.nii.gz" for name in ("a", "a_pred", "b_pred", "b_mask")))
    touch(*(tmp_path / "t" / f"{name}.nii.gz" for name in ("a", "b")))
    pairing = pair_up(tmp_path / "p", tmp_path / "t")
    assert [(case, ours[WHOLE].name) for case, ours, _ in pairing.pairs] == [("a", "a.nii.gz")]
    assert pairing.only_pred == ("a_pred", "b_mask", "b_pred")
    assert pairing.only_true == ("b",)


def test_no_mask_of_two_alike_names_vanishes(tmp_path):
    touch(*(tmp_path / "p" / f"{name}.nii.gz" for name in ("a", "A")), tmp_path / "t" / "A.nii.gz")
    if len(list((tmp_path / "p").iterdir())) < 2:
        pytest.skip("this file system does not tell capitals apart")
    pairing = pair_up(tmp_path / "p", tmp_path / "t")
    assert [ours[WHOLE].name for _, ours, _ in pairing.pairs] == ["A.nii.gz"]
    assert pairing.only_pred == ("a",)


def test_a_case_in_several_dicom_objects_counts_once(tmp_path):
    touch(*(tmp_path / "p" / f"a{kind}.dcm" for kind in ("", ".labelmap", ".rtstruct")))
    touch(tmp_path / "t" / "a.nii.gz")
    pairing = pair_up(tmp_path / "p", tmp_path / "t")
    assert [ours[WHOLE].name for _, ours, _ in pairing.pairs] == ["a.dcm"]
    assert pairing.only_pred == pairing.only_true == ()


def test_the_predictions_of_a_run_folder_are_found(tmp_path):
    touch(tmp_path / "run" / "predictions" / "a.nii.gz", tmp_path / "t" / "a.nii.gz")
    assert len(pair_up(tmp_path / "run", tmp_path / "t").pairs) == 1


@pytest.mark.parametrize(
    ("pred", "message"),
    [
        ("nowhere", "no such file or folder"),
        ("empty", "holds no masks"),
        ("other", "no mask of other has the name"),
    ],
)
def test_folders_that_cannot_be_paired_say_why(tmp_path, pred, message):
    touch(tmp_path / "t" / "a.nii.gz", tmp_path / "other" / "x1.nii.gz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        pair_up(tmp_path / pred, tmp_path / "t")


def test_label_sets_without_a_common_class_are_refused(tmp_path):
    save(mask((1, 0, 4)), tmp_path / "pred" / "a" / "liver.nii.gz")
    save(mask((1, 0, 4)), tmp_path / "pred" / "a" / "gut.nii.gz")
    save(mask((1, 0, 4)), tmp_path / "true" / "a" / "heart.nii.gz")
    save(mask((1, 0, 4)), tmp_path / "true" / "a" / "lung.nii.gz")
    with pytest.raises(UserError, match=r"share no class[\s\S]*liver: only in the prediction"):
        score_folders(tmp_path / "pred", tmp_path / "true")
    save(mask((1, 0, 4)), tmp_path / "true" / "a" / "liver.nii.gz")
    with pytest.raises(UserError, match="no class named brain"):
        score_folders(tmp_path / "pred", tmp_path / "true", classes=["brain"])


def test_a_misspelt_metric_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match="no metric named 'dicee'"):
        score_folders(tmp_path, tmp_path, metrics=["dicee"])


def test_a_folder_a_class_and_a_folder_a_case_are_told_apart_by_the_names_of_cases(tmp_path):
    for organ in ("liver", "spleen"):
        touch(*(tmp_path / side / organ / f"case{n}.nii.gz" for n in (1, 2) for side in "pt"))
        touch(*(tmp_path / "q" / f"case{n}" / f"{organ}.nii.gz" for n in (1, 2)))
    for pred, true in (("p", "t"), ("q", "t"), ("q", "q")):
        assert [case for case, _, _ in pair_up(tmp_path / pred, tmp_path / true).pairs] == ["case1", "case2"]


def test_two_cuts_of_one_grid_are_covered_by_one_grid():
    from medseg.core.geometry import Geometry
    from medseg.score.reading import covering

    whole = Geometry.from_spacing((8, 8, 20), (1, 1, 2.5), origin=(4, 5, 6))
    one, other = whole.cropped((0, 0, 3), (8, 8, 5)), whole.cropped((0, 0, 6), (8, 8, 10))
    assert covering(one, other).same_grid(whole.cropped((0, 0, 3), (8, 8, 13)))
    assert covering(one, whole.cropped((0, 0, 0.5), (8, 8, 10))) is None


def test_the_same_voxels_stored_in_another_axis_order_are_put_in_order(tmp_path):
    labels = mask((1, 0, 4), (2, 5, 8))
    save(labels, tmp_path / "true" / "a.nii.gz")
    flipped = AFFINE @ np.array([[-1.0, 0, 0, 11], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    save(np.ascontiguousarray(labels[::-1]), tmp_path / "pred" / "a.nii.gz", flipped)
    assert score_folders(tmp_path / "pred", tmp_path / "true")["per_case"]["a"]["dice"] == 1.0


def test_masks_of_a_class_each_in_another_axis_order_keep_their_overlap(tmp_path):
    flipped = AFFINE @ np.array([[-1.0, 0, 0, 11], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    for case in ("p1", "p2"):
        for name, labels in (("lung", mask((1, 0, 4))), ("heart", mask((1, 2, 7)))):
            save(labels, tmp_path / "true" / case / f"{name}.nii.gz")
            save(np.ascontiguousarray(labels[::-1]), tmp_path / "pred" / case / f"{name}.nii.gz", flipped)
    facts = score_folders(tmp_path / "pred", tmp_path / "true")
    assert {name: row["dice"] for name, row in facts["per_class"].items()} == {"lung": 1.0, "heart": 1.0}


def test_where_no_pair_lies_on_one_grid_the_first_is_named_with_a_remedy_for_two_folders(tmp_path):
    for case in "ab":
        save(mask((1, 0, 4)), tmp_path / "true" / f"{case}.nii.gz")
        save(mask((1, 0, 4), shape=(12, 12, 7)), tmp_path / "pred" / f"{case}.nii.gz")
    with pytest.raises(UserError) as error:
        score_folders(tmp_path / "pred", tmp_path / "true")
    assert error.value.where == "case a"
    assert "none of the 2 pairs can be compared; this is the first" in error.value.faults
    assert "nearest neighbours" in error.value.hint
    assert "data.grid" not in error.value.hint


def test_another_numbering_of_the_classes_is_said(tmp_path):
    save(mask((1, 0, 4), (2, 5, 8)), tmp_path / "true" / "a.nii.gz")
    save(mask((3, 0, 4), (2, 5, 8)), tmp_path / "pred" / "a.nii.gz")
    text = text_of(score_folders(tmp_path / "pred", tmp_path / "true"))
    assert "the numbering may differ: class 3 in no reference, class 1 in no prediction" in text
    assert score_folders(tmp_path / "true", tmp_path / "true")["doubt"] == ""


def test_what_nobody_labelled_is_pointed_at_and_left_out_when_asked(tmp_path):
    """The reference leaves 255 where nobody looked; the prediction draws its structure there as well."""
    true = mask((1, 2, 8))
    true[5:8, 2:8, 2:8] = 255
    save(mask((1, 2, 8)), tmp_path / "p" / "a.nii.gz")
    save(true, tmp_path / "t" / "a.nii.gz")
    facts = score_folders(tmp_path / "p", tmp_path / "t")
    assert facts["per_class"]["class 1"]["dice"] == pytest.approx(2 / 3)
    assert "--ignore 255 leaves it out" in facts["doubt"]
    assert facts["doubt"] in text_of(facts)
    facts = score_folders(tmp_path / "p", tmp_path / "t", ignore=255)
    assert (facts["per_class"]["class 1"]["dice"], facts["doubt"]) == (1.0, "")
    assert list(facts["per_class"]) == ["class 1"]


@pytest.mark.parametrize("tolerance", [float("nan"), float("inf"), -1.0])
def test_a_tolerance_that_is_no_distance_is_refused(folders, tolerance):
    with pytest.raises(UserError, match="a tolerance of"):
        score_folders(*folders, tolerance_mm=tolerance)


def test_the_command_takes_measures_classes_and_the_ignored_value(folders, capfd):
    from medseg.cli import _main

    words = ["--metrics", "dice,assd_mm", "--class", "class 1", "--ignore", "2", "--json"]
    assert _main(["score", *map(str, folders), *words]) == 0
    facts = json.loads(capfd.readouterr().out)
    assert list(facts["per_class"]) == ["class 1"]
    assert set(facts["mean"]) == {"dice", "iou", "hd95_mm", "assd_mm"}
    assert facts["mean"]["iou"] is None
    assert _main(["score", *map(str, folders), "--metrics", "dise"]) == 2
    assert "did you mean dice?" in capfd.readouterr().err


def test_every_measure_is_that_of_all_pairs_of_voxels_on_an_oblique_sheared_grid(tmp_path):
    turn = np.array([[1.1, -0.6, 0.2], [0.5, 0.9, 0.4], [-0.1, 0.2, 2.7]])
    affine = np.eye(4)
    affine[:3, :3] = turn
    rng = np.random.default_rng(3)
    shape = (9, 8, 6)
    smooth = [
        np.add.reduce([np.roll(rng.random(shape), s, a) for a in range(3) for s in (0, 1)]) for _ in range(2)
    ]
    pred, true = (array > np.quantile(array, 0.7) for array in smooth)
    save(pred.astype(np.uint8), tmp_path / "p" / "a.nii.gz", affine)
    save(true.astype(np.uint8), tmp_path / "t" / "a.nii.gz", affine)
    names = ["dice", "iou", "hd_mm", "hd95_mm", "assd_mm", "nsd", "volume_error_ml"]
    facts = score_folders(tmp_path / "p", tmp_path / "t", metrics=names, tolerance_mm=1.5)

    def border(voxels):
        """Centres in mm of the voxels of a set with a face neighbour that is not in it."""
        faces = [sign * np.eye(3, dtype=int)[axis] for axis in range(3) for sign in (-1, 1)]
        return [v for v in voxels if any(tuple(np.add(v, face)) not in voxels for face in faces)]

    p, t = ({tuple(map(int, v)) for v in np.argwhere(mask)} for mask in (pred, true))
    ours, theirs = (np.array(border(side)) @ turn.T for side in (p, t))
    between = np.sqrt(((ours[:, None] - theirs[None]) ** 2).sum(axis=-1))
    there, back = between.min(axis=1), between.min(axis=0)
    every = np.concatenate([there, back])
    voxel_ml = abs(np.linalg.det(turn)) / 1000
    expected = {
        "dice": 2 * len(p & t) / (len(p) + len(t)),
        "iou": len(p & t) / len(p | t),
        "hd_mm": every.max(),
        "hd95_mm": max(np.percentile(there, 95), np.percentile(back, 95)),
        "assd_mm": every.mean(),
        "nsd": (every <= 1.5).mean(),
        "volume_error_ml": abs(len(p) - len(t)) * voxel_ml,
    }
    found = {name: abs(facts["per_class"]["class 1"][name]) for name in names}
    assert found == pytest.approx(expected, rel=1e-5)
