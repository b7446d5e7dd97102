"""No patient in two splits, whatever was given; what was dealt is the same again."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.config import Split
from medseg.core.errors import UserError
from medseg.data.manifest import read_table
from medseg.data.rows import CaseRow
from medseg.data.splits import assign_splits, deal, read_split_file


def row(case, patient=None, split="", fold=None, label=True):
    return CaseRow(case, patient or case, ((case,),), {"label": case} if label else {}, split, fold)


def places(rows):
    held = {}
    for r in rows:
        held.setdefault(r.patient, set()).add((r.split, r.fold))
    return held


@given(
    scans=st.lists(st.integers(0, 12), min_size=1, max_size=40),
    seed=st.integers(0, 10**6),
    folds=st.integers(2, 8),
    test=st.floats(0, 0.6),
)
def test_no_patient_lies_in_two_splits_for_any_seed(scans, seed, folds, test):
    rows = [row(f"c{i}", f"p{p}") for i, p in enumerate(scans)]
    done, _ = assign_splits(rows, Split(folds=folds, seed=seed, test_fraction=test))
    assert all(len(where) == 1 for where in places(done).values())
    assert all(r.split in ("train", "val", "test") for r in done)
    assert any(r.split == "train" for r in done)


def test_the_same_seed_deals_the_same_and_the_order_of_cases_does_not_matter():
    rows = [row(f"c{i}", f"p{i // 2}") for i in range(30)]
    one, _ = assign_splits(rows, Split(seed=3))
    other, _ = assign_splits(rows[::-1], Split(seed=3))
    assert {r.case: (r.split, r.fold) for r in one} == {r.case: (r.split, r.fold) for r in other}
    third, _ = assign_splits(rows, Split(seed=4))
    assert {r.case: r.fold for r in one} != {r.case: r.fold for r in third}


def test_every_patient_validates_once_over_the_folds():
    rows = [row(f"c{i}", f"p{i // 3}") for i in range(31)]
    seen = []
    for fold in range(5):
        done, _ = assign_splits(rows, Split(fold=fold))
        seen += [r.case for r in done if r.split == "val"]
    assert sorted(seen) == sorted(r.case for r in rows)


def test_what_was_dealt_is_said_with_seed_and_fold():
    _, (note,) = assign_splits([row(f"c{i}") for i in range(10)], Split(seed=9, fold=2))
    assert note == "split: 8 train, 2 val (10 patients dealt into 5 folds with seed 9, fold 2 validates)"


def test_a_given_split_stays():
    rows = [row("a", split="train"), row("b", split="val"), row("c", split="test"), row("d")]
    done, _ = assign_splits(rows, Split())
    assert [r.split for r in done] == ["train", "val", "test", "train"]


def test_a_given_test_split_is_set_aside_and_the_rest_is_dealt():
    rows = [row("t", split="test"), *(row(f"c{i}", split="train") for i in range(10))]
    done, _ = assign_splits(rows, Split(test_fraction=0.5))
    assert [r.case for r in done if r.split == "test"] == ["t"]
    assert sum(r.split == "val" for r in done) == 2


def test_given_folds_are_used():
    rows = [row(f"c{i}", fold=i % 3) for i in range(9)]
    done, _ = assign_splits(rows, Split(fold=1))
    assert [r.case for r in done if r.split == "val"] == ["c1", "c4", "c7"]


def test_a_fold_that_no_case_has_is_refused():
    with pytest.raises(UserError, match=r"no case has the fold 4; there are 0, 1, 2"):
        assign_splits([row(f"c{i}", fold=i % 3) for i in range(9)], Split(fold=4))


def test_a_fold_beyond_the_folds_is_refused():
    with pytest.raises(UserError, match=r"fold is 5, but there are 5 folds \(0 to 4\)"):
        assign_splits([row("a")], Split(fold=5))


def test_a_fold_that_few_patients_do_not_give_is_refused():
    with pytest.raises(UserError, match="3 patients give only 3 folds"):
        assign_splits([row(c) for c in "abc"], Split(fold=3))


def test_one_patient_trains_alone_and_it_is_said():
    done, (note,) = assign_splits([row("a", "p"), row("b", "p")], Split())
    assert {r.split for r in done} == {"train"}
    assert "too few patients for a validation" in note


@pytest.mark.parametrize(
    "rows",
    [
        [row("a", "p", "train"), row("b", "p", "test"), row("c", "q", "train")],
        [row("a", "p", fold=0), row("b", "p", fold=1), row("c", "q", fold=0)],
    ],
)
def test_a_patient_in_two_splits_is_refused_naming_cases_not_the_patient(rows):
    rows = [replace(r, patient=f"CANARY-{r.patient}") for r in rows]
    with pytest.raises(UserError, match="a patient lies in two splits") as caught:
        assign_splits(rows, Split())
    text = str(caught.value)
    assert "a in" in text
    assert "b in" in text
    assert "CANARY" not in text


@pytest.mark.parametrize(
    "first",
    [
        row("a", "p", "test"),
        row("a", "p", "val"),
        row("a", "p", fold=0),
        row("a", "p", "test", label=False),
    ],
)
def test_a_scan_without_a_split_goes_where_the_patients_other_scan_was_put(first):
    others = [row(f"c{i}", split="val" if first.split == "val" and i == 0 else "") for i in range(8)]
    if first.fold is not None:
        others = [replace(r, fold=i % 2) for i, r in enumerate(others)]
    for fold in (0, 1):
        done, _ = assign_splits([first, row("b", "p"), *others], Split(fold=fold))
        where = {r.case: r.split for r in done}
        assert where["a"] == where["b"]


def test_a_scan_without_a_split_stays_alone_when_the_user_says_that_cases_are_patients():
    done, _ = assign_splits([row("a", "p", "val"), row("b", "p"), row("c")], Split(by="case"))
    assert [r.split for r in done] == ["val", "train", "train"]


def test_cases_without_a_fold_among_given_ones_train_in_every_fold_and_it_is_said():
    rows = [*(row(f"c{i}", fold=i % 2) for i in range(4)), row("d"), row("e")]
    for fold in (0, 1):
        done, (note,) = assign_splits(rows, Split(fold=fold))
        assert [r.split for r in done[-2:]] == ["train", "train"]
        assert "2 without a fold train in every one" in note


def test_scans_of_one_patient_may_be_split_when_the_user_says_so():
    rows = [row("a", "p", "train"), row("b", "p", "test")]
    done, _ = assign_splits(rows, Split(by="case"))
    assert [r.split for r in done] == ["train", "test"]


def test_cases_without_a_label_are_not_dealt():
    done, _ = assign_splits([row("a"), row("b"), row("c", label=False)], Split())
    assert done[2].split == ""


def test_a_split_file_is_read_and_a_part_of_the_set_is_fine(tmp_path):
    (tmp_path / "s.csv").write_text("case,fold\na,0\nb,1\ngone,1\n")
    rows, notes = read_split_file([row("a"), row("b")], tmp_path / "s.csv")
    assert [r.fold for r in rows] == [0, 1]
    assert notes == ("the split file names 1 cases that do not lie here",)


def test_a_misspelt_case_in_a_split_file_is_refused(tmp_path):
    (tmp_path / "s.csv").write_text("case,split\ncase_1,train\ncase-2,test\n")
    with pytest.raises(UserError) as caught:
        read_split_file([row("case_1"), row("case_2")], tmp_path / "s.csv")
    assert "line 3: there is no case 'case-2', did you mean case_2" in str(caught.value)
    assert "does not name case_2" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,fold\na,0\n", "a split file has the columns case and split or fold"),
        ("case,fold\na,0\na,1\n", "line 3: case 'a' is given twice"),
        ("case,split\na,x\n", "line 2: 'x' is no split"),
    ],
)
def test_a_bad_split_file_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_split_file([row("a")], tmp_path / "s.csv")


def test_leakage_by_a_split_file_is_found(tmp_path):
    (tmp_path / "s.csv").write_text("case,split\na,train\nb,test\n")
    rows, _ = read_split_file([row("a", "p"), row("b", "p")], tmp_path / "s.csv")
    with pytest.raises(UserError, match="two splits"):
        assign_splits(rows, Split())


def test_the_folds_of_the_hippocampus_set_are_dealt_again(shared_data):
    table = read_table(shared_data / "hippocampus" / "splits.csv")
    written = {case: int(fold) for case, fold in zip(table["case"], table["fold"])}
    assert deal(list(written), 5, 12345) == written


def test_keys_that_end_in_a_nul_are_dealt_like_any_other():
    """A DICOM patient's key is ID and issuer with a NUL between; most have no issuer."""
    rows = [row(f"c{i}", f"P{i}\0") for i in range(5)]
    done, _ = assign_splits(rows, Split(folds=5, test_fraction=0.2))
    assert sorted(r.split for r in done) == ["test", "train", "train", "train", "val"]
