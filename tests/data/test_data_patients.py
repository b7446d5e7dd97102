"""Several scans of one patient: told by names only when a person has confirmed it, asked about otherwise."""

from __future__ import annotations

import pytest

from medseg.config import ClassSpec, Data, Split
from medseg.core.errors import Question, UserError
from medseg.data.cohort import find_cases
from medseg.data.patients import first_words, likely_words, require_clear_patients


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["P01_a", "P01_b", "P02_a"], 1),
        (["sub 1 t0", "sub 1 t1", "sub 2 t0"], 2),
        (["BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000"], 3),
        (["0016E5_00390", "0016E5_00420", "0001TP_00100"], 1),
        (["BraTS20_001", "BraTS20_002", "BraTS20_003"], 0),
        (["hippocampus_001", "hippocampus_002"], 0),
        (["benign_1", "benign_2", "malignant_1"], 0),
        (["case_01_left", "case_02_left"], 0),
        (["P01", "P01_b", "P02"], 0),
        (["one"], 0),
    ],
)
def test_names_that_may_tell_patients_are_noticed(names, words):
    assert likely_words(names) == words


def test_the_first_words_of_a_name_end_at_any_separator():
    assert [first_words("P01-a b.c", n) for n in (1, 2, 3, 9)] == ["P01", "P01-a", "P01-a b", "P01-a b.c"]


@pytest.fixture
def scans(tmp_path):
    """Two scans of each of three patients, by their names."""
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for name in ("P01_a", "P01_b", "P02_a", "P02_b", "P03_a", "P03_b"):
            (tmp_path / kind / f"{name}.nii.gz").write_bytes(b"not read here")
    return tmp_path


def _data(scans, **split):
    return Data(root=str(scans), classes={"thing": ClassSpec(values=[1])}, split=Split(**split))


def test_scans_that_may_be_of_one_patient_are_asked_about(scans):
    with pytest.raises(Question, match="6 names look like several scans of one patient") as caught:
        require_clear_patients(find_cases(_data(scans)))
    assert "P01: P01_a, P01_b" in str(caught.value)
    assert [setting for _, setting in caught.value.choices] == [
        "data.split.patient_words=1",
        "data.split.by=case",
    ]
    assert "data.split.patient_words=1" in str(caught.value), "a script is told what to write"
    assert caught.value.as_json()["choices"][1]["set"] == "data.split.by=case"


def test_a_confirmed_pattern_keeps_the_scans_of_a_patient_together(scans):
    cohort = find_cases(_data(scans, patient_words=1))
    require_clear_patients(cohort)
    assert cohort.n_patients == 3
    sides = {
        row.case[:3]: {other.split for other in cohort.rows if other.case[:3] == row.case[:3]}
        for row in cohort.rows
    }
    assert all(len(splits) == 1 for splits in sides.values())


def test_the_word_that_all_are_other_patients_is_taken(scans):
    require_clear_patients(find_cases(_data(scans, by="case")))


def test_a_given_split_is_not_asked_about(scans):
    (scans / "split.csv").write_text(
        "case,split\n"
        + "".join(f"P0{n}_{s},{'val' if n == 3 else 'train'}\n" for n in (1, 2, 3) for s in "ab")
    )
    require_clear_patients(find_cases(_data(scans, file="split.csv")))


def test_a_pattern_beside_a_patient_column_is_refused(scans):
    (scans / "manifest.csv").write_text("case,patient,image\nP01_a,p,images/P01_a.nii.gz\n")
    with pytest.raises(UserError, match="the data names its patients already"):
        find_cases(_data(scans, patient_words=1))
