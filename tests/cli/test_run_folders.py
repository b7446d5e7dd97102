"""Which run folder a call works in: its own, alone, and the old one where failed cases are done again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medseg.cli_place import alone, run_place
from medseg.config import Pipeline

PIPELINE = Pipeline.model_validate({"name": "a", "system": "threshold-otsu"})
FOLDS = Pipeline.model_validate({"name": "a", "system": "threshold-otsu", "train": {"folds": "all"}})

JOURNEY = """\
name: otsu
data: {modality: mr, classes: {large: 1}, unnamed: background}
system: threshold-otsu
track: {enabled: false}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_two_calls_at_one_moment_get_a_folder_each() -> None:
    with run_place(PIPELINE, None, False) as one, run_place(PIPELINE, None, False) as other:
        assert (one, other) == (Path("runs/a-1"), Path("runs/a-2"))


def test_a_new_folder_in_which_nothing_was_begun_goes_away() -> None:
    with pytest.raises(KeyError), run_place(PIPELINE, None, False) as place, alone(PIPELINE, place):
        raise KeyError
    assert list(Path("runs").iterdir()) == []


def test_a_folder_of_a_persons_own_stays_though_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with run_place(PIPELINE, tmp_path / "mine", False) as place:
        assert place == tmp_path / "mine"
    assert place.is_dir()


def test_a_call_holds_its_run_folder_against_others(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with alone(PIPELINE, tmp_path), (tmp_path / ".lock").open("a") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / ".lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_jobs_that_train_folds_side_by_side_do_not_wait_for_each_other(tmp_path: Path) -> None:
    with alone(FOLDS, tmp_path), alone(FOLDS, tmp_path):
        pass


def test_a_mistyped_name_leaves_no_run_that_resume_would_take(medseg: Callable, cohort: Path) -> None:
    Path("otsu.yaml").write_text(JOURNEY)
    code, _, _ = medseg("run", "otsu.yaml", "--data", cohort, "--set", "score.metrics=[dise]")
    assert code == 2
    assert not list(Path("runs").glob("otsu-*"))


@pytest.mark.parametrize("name", ["model", "predictions", "figures"])
def test_a_folder_of_ones_own_is_not_written_over(
    medseg: Callable, cohort: Path, tmp_path: Path, name: str
) -> None:
    Path("otsu.yaml").write_text(JOURNEY)
    mine = tmp_path / "project" / name / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    code, facts, _ = medseg("run", "otsu.yaml", "--data", cohort, "--out", "project", "--json")
    assert code == 2
    assert f"holds {name} that no run of medseg made" in facts["error"]["what"]
    assert mine.read_text() == "years of work"


def test_a_pipeline_file_of_ones_own_is_not_written_over(medseg: Callable, cohort: Path) -> None:
    Path("pipeline.yaml").write_text(JOURNEY + "# my remark\n")
    code, facts, _ = medseg(
        "run", "pipeline.yaml", "--data", cohort, "--out", ".", "--until", "check", "--json"
    )
    assert (code, facts["error"]["hint"]) == (2, "choose another run folder with --out")
    assert Path("pipeline.yaml").read_text() == JOURNEY + "# my remark\n"


def test_a_damaged_list_of_steps_is_named_with_its_remedy(medseg: Callable, tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text(JOURNEY)
    (tmp_path / "steps.json").write_text("{")
    code, facts, _ = medseg("status", tmp_path, "--json")
    assert code == 2
    assert "is not valid JSON" in facts["error"]["what"]
    assert facts["error"]["hint"].startswith("take the file away")


def test_failed_cases_are_done_again_in_the_run_in_which_they_failed(
    medseg: Callable, put_case: Callable, tmp_path: Path
) -> None:
    Path("otsu.yaml").write_text(JOURNEY)
    for number in range(2):
        put_case(tmp_path / "data", f"case_{number}", number)
    bad = tmp_path / "data" / "images" / "case_0.nii.gz"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:1000])
    code, first, _ = medseg("run", "otsu.yaml", "--data", "data", "--until", "check", "--json")
    assert (code, first["cases"]["failed"]) == (3, 1)
    bad.write_bytes(whole)
    code, again, _ = medseg(
        "run", "otsu.yaml", "--data", "data", "--until", "check", "--only", "failed", "--json"
    )
    assert (code, again["run"]) == (0, first["run"])
    assert json.dumps(again["cases"]) == json.dumps({"done": 2, "failed": 0, "skipped": 0, "review": 0})
