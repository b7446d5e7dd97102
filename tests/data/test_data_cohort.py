"""A cohort goes into the run folder and comes back; what may be shown holds no path and no patient."""

import pandas as pd
import pytest

from medseg.config import Data
from medseg.core.errors import UserError
from medseg.core.run import RunFolder
from medseg.data import cohort as cohort_module
from medseg.data.cohort import cases_of, cohort_key, find_cases, load_cohort, save_cohort
from medseg.data.rows import CaseRow, counted


@pytest.fixture
def cohort(tmp_path):
    folder = tmp_path / "Canary Müller"
    folder.mkdir()
    for name in "abcdef":
        (folder / f"{name}.nii.gz").write_bytes(b"x")
    lines = [f"{n},Canary {i // 2},{n}.nii.gz,{n}.nii.gz,1|2" for i, n in enumerate("abcdef")]
    (folder / "m.csv").write_text("case,patient,image,label,known\n" + "\n".join(lines))
    return find_cases(Data(manifest=str(folder / "m.csv"), classes={"1": 1, "2": 2}), key=b"k")


def test_a_cohort_comes_back_as_it_went(cohort, tmp_path):
    folder = RunFolder(tmp_path / "run")
    save_cohort(cohort, folder)
    assert load_cohort(folder) == cohort


def test_what_may_be_shown_holds_no_path_and_no_patient(cohort, tmp_path):
    folder = RunFolder(tmp_path / "run")
    save_cohort(cohort, folder)
    assert b"Canary" not in folder.cases.read_bytes()
    assert "Canary" in folder.sources.read_text()


def test_scans_of_a_patient_keep_one_hashed_key(cohort):
    assert cohort.n_patients == 3
    assert all(row.patient.startswith("patient-") for row in cohort.rows)
    assert cohort.rows[0].patient == cohort.rows[1].patient


def test_cases_that_failed_do_not_come_back_but_are_named(cohort, tmp_path):
    folder = RunFolder(tmp_path / "run")
    facts = [
        {"status": "failed" if r.case == "b" else "ok", "reason": "is empty" * (r.case == "b")}
        for r in cohort.rows
    ]
    save_cohort(cohort, folder, facts)
    loaded = load_cohort(folder)
    assert [r.case for r in loaded.rows] == list("acdef")
    assert loaded.left_out == (("b", "is empty"),)
    assert pd.read_parquet(folder.cases)["status"].value_counts().to_dict() == {"ok": 5, "failed": 1}


def test_the_held_out_cases_are_test_else_validation_else_all(cohort):
    assert {r.split for r in cases_of(cohort, "holdout")} == {"val"}
    rows = tuple(CaseRow(n, n, ((n,),), split=s) for n, s in (("a", "train"), ("b", "val"), ("c", "test")))
    import dataclasses

    assert [r.case for r in cases_of(dataclasses.replace(cohort, rows=rows), "holdout")] == ["c"]
    none = tuple(CaseRow(n, n, ((n,),)) for n in "ab")
    assert len(cases_of(dataclasses.replace(cohort, rows=none), "holdout")) == 2


def test_the_key_of_a_run_is_made_once_and_only_the_owner_reads_it(tmp_path):
    folder = RunFolder(tmp_path)
    assert cohort_key(folder) == cohort_key(folder)
    assert (folder.private / "key.hex").stat().st_mode & 0o077 == 0
    assert cohort_key(RunFolder(tmp_path / "other")) != cohort_key(folder)


@pytest.mark.parametrize("links", [True, False])
def test_jobs_that_begin_at_the_same_moment_agree_on_the_key(tmp_path, monkeypatch, links):
    folder, others = RunFolder(tmp_path), []
    written = cohort_module.write_text

    def meanwhile(path, text):
        monkeypatch.setattr(cohort_module, "write_text", written)
        if links:
            others.append(cohort_key(folder))  # another job, before this one has written its own
        written(path, text)

    def refused(*names):
        raise OSError("no links on this file system")

    monkeypatch.setattr(cohort_module, "write_text", meanwhile)
    if not links:
        monkeypatch.setattr(cohort_module.os, "link", refused)
    found = cohort_key(folder)
    assert [found] * len(others) == others
    assert cohort_key(folder) == found
    assert [path.name for path in folder.private.iterdir()] == ["key.hex"]


def test_a_run_that_was_not_checked_says_so(tmp_path):
    with pytest.raises(UserError, match="has not been checked yet"):
        load_cohort(RunFolder(tmp_path))


def test_several_scans_without_a_patient_key_are_pointed_at(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    assert any("no patient key" in note for note in find_cases(Data(), tmp_path).notes)


def test_names_hashed_on_request_hide_what_was_left_out_too(tmp_path):
    for name in ("images/canary1.png", "images/canary2.png", "labels/canary1.png", "labels/canary9.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    cohort = find_cases(Data(ids="hashed"), tmp_path)
    shown = f"{[(r.case, r.patient) for r in cohort.rows]} {cohort.left_out} {cohort.notes}"
    assert "canary" not in shown
    assert len(cohort.left_out) == 1


def test_a_patient_in_two_given_splits_stops_the_search(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "m.csv").write_text(
        "case,patient,image,label,split\na,p,a.png,a.png,train\nb,p,b.png,b.png,val\n"
    )
    with pytest.raises(UserError, match="a patient lies in two splits"):
        find_cases(Data(manifest=str(tmp_path / "m.csv")))


def test_long_lists_are_shortened():
    assert counted(range(9), 3) == "0, 1, 2 and 6 more"


def test_a_misspelt_class_in_the_column_known_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "m.csv").write_text("case,image,label,known\na,a.png,a.png,livre\n")
    with pytest.raises(UserError) as caught:
        find_cases(Data(manifest=str(tmp_path / "m.csv"), classes={"liver": 1}))
    assert "line 2: 'livre' is no class, did you mean liver" in str(caught.value)
