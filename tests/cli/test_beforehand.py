"""Mistakes of a training that are found before cases are prepared, and starts that have seen the held-out cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

QUICK = ("--set", "train.steps=3", "--set", "track.enabled=false")


@pytest.fixture
def written(journey: Path, tmp_path: Path) -> Callable[[str, str], Path]:
    """The journey with one more line, as a file of its own."""

    def write(old: str, new: str) -> Path:
        path = tmp_path / "mine.yaml"
        text = journey.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        return path

    return write


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("augment: none", "augment: none, class_weights: {lrge: 2}", "line 5  train.class_weights.lrge: no class named 'lrge', did you mean large?"),
        ("augment: none", "augment: none, class_weights: {large: 0, small: 0, background: 0}", "line 5  train.class_weights: all are 0"),
        ("overlap: 0.25", "keep_largest: [smal]", "line 6  predict.keep_largest: no class named 'smal', did you mean small?"),
        ("overlap: 0.25", "smallest_part_ml: {smal: 2}", "line 6  predict.smallest_part_ml: no class named 'smal'"),
        ("overlap: 0.25", "part_median: {smal: [0, null]}", "line 6  predict.part_median: no class named 'smal'"),
        ("overlap: 0.25", "part_median: {small: [0, -5]}", "line 6  predict.part_median.small: the lower limit 0 is not below the upper one -5"),
        ("predict:", "score: {merge: {both: [large, smal]}}\npredict:", "line 6  score.merge.both: no class named 'smal'"),
        ("augment: none", "augment: none, from: nowhere", "line 5  train.start_from: nowhere: no such model"),
        ("name: 3d-u-net,", "name: 3d-unet,", "line 4  system.name: no system named '3d-unet', did you mean 3d-u-net?"),
    ],
)  # fmt: skip
def test_names_are_refused_before_a_case_is_read_with_their_line(
    medseg: Callable, written: Callable, cohort: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    code, _, err = medseg("run", written(old, new), "--data", cohort, "--out", tmp_path / "run")
    assert code == 2
    assert f"mine.yaml {words}" in err
    assert not (tmp_path / "run" / "cases.parquet").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.freeze=[analysi.*]", "--set  train.freeze: no weight of this network is named like 'analysi.*', did you mean analysis.*?"),
        ("train.class_weights={clas 1: 2}", "--set  train.class_weights.clas 1: no class named 'clas 1', did you mean class 1"),
    ],
)  # fmt: skip
def test_what_only_the_plan_knows_is_refused_before_cases_are_prepared(
    medseg: Callable, written: Callable, cohort: Path, tmp_path: Path, setting: str, words: str
) -> None:
    mine = written("classes: {large: 1, small: 2}, ", "")
    code, _, err = medseg("run", mine, "--data", cohort, "--out", tmp_path / "run", "--set", setting)
    assert code == 2
    assert words in err
    assert (tmp_path / "run" / "plan.yaml").exists()
    assert not (tmp_path / "run" / "prepared").exists()


@pytest.fixture(scope="module")
def two_channels(cohort: Path, journey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table in which each case has two channels."""
    folder = tmp_path_factory.mktemp("two")
    lines = ["case,image_t1,image_t2,label"]
    for n in range(8):
        image, label = (cohort / kind / f"case_{n}.nii.gz" for kind in ("images", "labels"))
        lines.append(f"case_{n},{image},{image},{label}")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return folder / "cases.csv"


def test_a_start_of_other_channels_is_said_before_cases_are_prepared(
    medseg: Callable, journey: Path, two_channels: Path, finished: Path, tmp_path: Path
) -> None:
    code, _, err = medseg("run", journey, "--data", two_channels, "--out", tmp_path / "run", *QUICK, "--set", f"train.from={finished}", "--until", "plan")  # fmt: skip
    assert code == 0, err
    assert (
        "weight tensors" not in (tmp_path / "run" / "run.log").read_text()
    )  # nothing is trained, so nothing is asked
    code, _, err = medseg("run", journey, "--data", two_channels, "--out", tmp_path / "run", *QUICK, "--set", f"train.from={finished}")  # fmt: skip
    assert code == 0, err
    before, _, _ = (tmp_path / "run" / "run.log").read_text().partition("cases prepared")
    assert "plan     43 of 44 weight tensors taken from train.start_from; new: " in before
    assert "x1x3x3x3, needed " in before


def test_a_start_that_has_learnt_from_held_out_cases_is_said_everywhere(
    medseg: Callable, journey: Path, cohort: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, facts, err = medseg("run", journey, "--data", cohort, "--out", out, "--folds", "all", *QUICK, "--set", f"train.from={finished / 'model'}", "--json")  # fmt: skip
    assert code == 0, err
    # The start was trained on folds 1 to 3, six cases; each of them is held out once here.
    log = (out / "run.log").read_text()
    before, _, _ = log.partition("cases prepared")
    assert (
        "plan     LEAK: train.start_from has learnt from 6 of the 8 cases that this run holds out" in before
    )
    assert "the model has learnt from 6 of them: no measure of new cases" in log
    scores = json.loads((out / "scores.json").read_text())
    assert len(scores["trained_on"]) == 6
    assert scores["of"] == "validation cases"
    assert facts["scores"]["trained_on"] == scores["trained_on"]
    page = (out / "report.html").read_text()
    assert "learnt from 6 of the 8 scored cases" in page
    assert "The training began with the weights of another model." in page
    assert "6 of 8 cases were predicted by a model that had learnt from them." in page
    assert "by a model that had not seen it" not in page
    clean, leaky = (
        json.loads((out / "folds" / name / "scores.json").read_text()) for name in ("fold-0", "fold-1")
    )
    assert (clean["trained_on"], len(leaky["trained_on"])) == ([], 2)
    notes = json.loads((out / "folds" / "fold-1" / "model" / "model.json").read_text())["training"]["notes"]
    assert any("LEAK" in note for note in notes)


def test_a_given_model_is_scored_with_a_warning_on_cases_it_has_learnt_from(
    medseg: Callable, journey: Path, cohort: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, facts, err = medseg("run", journey, "--data", cohort, "--model", finished, "--out", out, "--set", "predict.cases=all", "--set", "track.enabled=false", "--json")  # fmt: skip
    assert code == 0, err
    assert (
        "8 cases scored (the model has learnt from 6 of them: no measure of new cases)"
        in (out / "run.log").read_text()
    )
    assert len(facts["scores"]["trained_on"]) == 6
    assert "No measure of new cases" in (out / "report.html").read_text()
