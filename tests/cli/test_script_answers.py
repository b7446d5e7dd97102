"""One JSON object in every ending, and questions: asked on a terminal, an error with the choices in a script."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from medseg import cli_ask
from medseg.cli_door import run_safely
from medseg.core.errors import Interrupted, Question, UserError


def _said(capsys: pytest.CaptureFixture, error: BaseException, *arguments: str) -> tuple[int, dict, str]:
    @click.command()
    @click.option("--json", "as_json", is_flag=True)
    def verb(as_json: bool) -> None:
        raise error

    code = run_safely(verb, ["--json", *arguments])
    out, err = capsys.readouterr()
    return code, json.loads(out)["error"], err


@pytest.mark.parametrize(
    ("error", "code", "what"),
    [
        (UserError("is no CT", "case a", "take it out"), 2, "is no CT"),
        (click.UsageError("no such thing"), 2, "no such thing"),
        (Interrupted("SIGTERM"), 75, "stopped; what was finished is kept"),
        (KeyboardInterrupt(), 130, "stopped; what was finished is kept"),
        (
            ValueError("Meier^Hans"),
            1,
            "this is a fault of medseg, not yours; what was finished is kept (RUN/run.log)",
        ),
        (OSError(28, "No space left on device", "/x/y"), 2, "the disk is full"),
        (OSError(13, "Permission denied", "/nowhere/here"), 2, "no permission to read this"),
    ],
)
def test_every_ending_is_one_object_with_json(capsys, error, code, what):
    found, said, err = _said(capsys, error)
    assert (found, said["what"]) == (code, what)
    assert set(said) == {"what", "where", "hint", "faults"}
    assert err.strip(), "a person reads it on standard error"


def test_a_run_folder_that_may_not_be_made_is_about_writing(capsys, tmp_path):
    code, said, _ = _said(capsys, OSError(13, "Permission denied", str(tmp_path / "run")))
    assert (code, said["what"], said["where"]) == (2, "no permission to write here", str(tmp_path))


def test_a_misspelt_option_is_an_object_too(capsys):
    code, said, _ = _said(capsys, UserError("not reached"), "--nothing")
    assert code == 2
    assert "--nothing" in said["what"]


QUESTION = Question("which of the two", "data", ["a", "b"], [("the first", "x.y=1"), ("the second", "x.y=2")])


def _work(overrides: tuple[str, ...]) -> tuple[str, ...]:
    if not overrides:
        raise QUESTION
    return overrides


@pytest.mark.parametrize(("terminal", "as_json"), [(False, False), (True, True)])
def test_a_script_gets_the_question_as_an_error_with_its_choices(monkeypatch, terminal, as_json):
    monkeypatch.setattr(sys, "stdin", _Terminal(terminal))
    monkeypatch.setattr(sys, "stderr", _Terminal(terminal))
    with pytest.raises(Question, match="which of the two") as caught:
        cli_ask.asked(_work, (), as_json)
    assert "x.y=2 (the second)" in caught.value.hint


def test_on_a_terminal_the_answer_goes_on_with_the_setting(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(sys, "stdin", _Terminal(True))
    monkeypatch.setattr(sys, "stderr", _Terminal(True))
    monkeypatch.setattr(click, "echo", lambda text="", err=False: said.append(text))
    monkeypatch.setattr(click, "prompt", lambda *_, **__: 2)
    assert cli_ask.asked(_work, (), False) == ("x.y=2",)
    assert "  2  the second" in said
    assert said[-1] == "next time without asking: --set x.y=2"


class _Terminal:
    def __init__(self, is_terminal: bool) -> None:
        self._is = is_terminal

    def isatty(self) -> bool:
        return self._is

    def write(self, _: str) -> int:
        return 0

    def flush(self) -> None:
        return None


def test_a_question_survives_a_worker():
    import copy

    again = copy.copy(QUESTION)
    assert again.choices == QUESTION.choices
    assert str(again) == str(QUESTION)


def test_scans_that_may_be_of_one_patient_stop_a_script(
    medseg: Callable, journey: Path, cohort: Path, tmp_path
):
    root = tmp_path / "data"
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
        for number, path in enumerate(sorted((cohort / kind).iterdir())):
            (root / kind / f"P{number // 2}_t{number % 2}.nii.gz").symlink_to(path)
    code, out, err = medseg(
        "run", str(journey), "--data", str(root), "--out", str(tmp_path / "run"), "--json"
    )
    assert code == 2
    assert "look like several scans of one patient" in err
    assert [choice["set"] for choice in out["error"]["choices"]] == [
        "data.split.patient_words=1",
        "data.split.by=case",
    ]
    code, out, err = medseg("run", str(journey), "--data", str(root), "--out", str(tmp_path / "run"), "--json",
                            "--set", "data.split.patient_words=1", "--until", "check")  # fmt: skip
    assert code == 0, err
    assert out["cases"]["done"] == 8


def test_a_table_and_an_image_are_checked_without_a_pipeline_file(
    medseg: Callable, cohort: Path, tmp_path: Path
) -> None:
    image = cohort / "images" / "case_0.nii.gz"
    (tmp_path / "t.csv").write_text(f"case,image\na,{image}\n", encoding="utf-8")
    for target in (tmp_path / "t.csv", image):
        code, facts, _ = medseg("check", target, "--json")
        assert (code, facts["cases"]["done"]) == (0, 1)


def test_a_folder_that_is_not_there_is_not_called_a_pipeline_file(medseg: Callable, tmp_path: Path) -> None:
    code, facts, _ = medseg("check", tmp_path / "Export Thorax", "--json")
    assert code == 2
    assert facts["error"]["what"] == "no such folder, table or pipeline file"


def test_a_bare_folder_and_data_are_not_mixed(medseg: Callable, cohort: Path):
    code, _, err = medseg("check", str(cohort), "--data", str(cohort))
    assert code == 2
    assert "give the data folder once" in err
