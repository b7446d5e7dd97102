"""Folds, seeds and jobs from the command line, on the tiny cohort."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medseg import mean_of_two
from medseg.cli import _main
from medseg.config import Pipeline
from medseg.config_file import load_pipeline
from medseg.core.errors import UserError
from medseg.core.run import RunFolder

QUICK = ("--set", "train.steps=3", "--set", "track.enabled=false")
FOLDS = ["fold-0", "fold-1", "fold-2", "fold-3"]


@pytest.fixture(scope="module")
def crossed(cohort: Path, journey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with four folds, tracked."""
    out = tmp_path_factory.mktemp("crossed") / "tiny-1"
    arguments = ["run", journey, "--data", cohort, "--out", out, "--folds", "all", "--set", "train.steps=12"]
    assert _main([str(a) for a in arguments]) == 0
    return out


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_every_case_is_predicted_once_by_a_model_that_has_not_seen_it(crossed: Path) -> None:
    seen = []
    for name in FOLDS:
        cases = pd.read_parquet(crossed / "folds" / name / "cases.parquet").set_index("case")
        predicted = {p.stem for p in (crossed / "folds" / name / "predictions").glob("*.json")}
        assert predicted == set(cases.index[cases["split"] == "val"])
        assert len(predicted) == 2
        seen += sorted(predicted)
    assert sorted(seen) == [f"case_{n}" for n in range(8)]


def test_the_table_is_out_of_fold_and_the_spread_is_that_of_the_folds(crossed: Path) -> None:
    scores = read(crossed / "scores.json")
    assert scores["n"] == 8
    assert "not seen" in scores["of"]
    ones = [read(crossed / "folds" / name / "scores.json")["mean"]["dice"] for name in FOLDS]
    over = scores["folds"]["over_folds"]["mean"]["dice"]
    assert over["mean"] == pytest.approx(statistics.fmean(ones))
    assert over["sd"] == pytest.approx(statistics.stdev(ones))
    assert (over["low"], over["high"], over["n"]) == (min(ones), max(ones), 4)
    assert scores["folds"]["over_seeds"] is None
    assert set(scores["folds"]["over_folds"]["per_class"]) == {"large", "small"}
    table = pd.read_parquet(crossed / "scores.parquet")
    assert table.groupby("case")["fold"].nunique().eq(1).all()
    by_fold = table[~table["merged"]].groupby("fold")["case"].nunique()
    assert by_fold.to_dict() == {0: 2, 1: 2, 2: 2, 3: 2}


def test_all_folds_share_one_plan_made_from_all_of_them(crossed: Path) -> None:
    plans = {(crossed / "folds" / name / "plan.yaml").read_text() for name in FOLDS}
    assert plans == {(crossed / "plan.yaml").read_text()}
    pooled = pd.read_parquet(crossed / "folds" / "cases.parquet")
    assert set(pooled["split"]) == {"train"}


def test_a_second_call_does_nothing_twice(
    medseg: Callable, journey: Path, cohort: Path, crossed: Path
) -> None:
    code, facts, _ = medseg("run", journey, "--data", cohort, "--out", crossed, "--folds", "all", "--set", "train.steps=12", "--json")  # fmt: skip
    assert code == 0
    assert facts["seconds"].keys() == {"total"}
    assert facts["scores"]["folds"]["over_folds"]["mean"]["dice"]["n"] == 4
    assert facts["cases"]["done"] == 8


def test_a_person_reads_the_spread_and_the_page_has_it(
    medseg: Callable, journey: Path, cohort: Path, crossed: Path
) -> None:
    _, text, _ = medseg(
        "run", journey, "--data", cohort, "--out", crossed, "--folds", "all", "--set", "train.steps=12"
    )
    for word in ("Dice over 4 folds", "+-", "fold-3", "post-processing", "case_5"):
        assert word in text, word
    page = (crossed / "report.html").read_text()
    for word in (
        "over 4 folds",
        "Folds and seeds",
        "fold-2",
        "Post-processing, tried",
        "data:image/png;base64,",
    ):
        assert word in page, word


def test_the_folds_are_child_runs_of_one_run(crossed: Path) -> None:
    from mlflow import MlflowClient

    kept = read(crossed / "tracking.json")
    client = MlflowClient(kept["uri"])
    parent = client.get_run(kept["."])
    assert parent.data.metrics["over_folds/dice_sd"] > 0
    for name in FOLDS:
        child = client.get_run(read(crossed / "folds" / name / "tracking.json")["."])
        assert child.data.tags["mlflow.parentRunId"] == kept["."]
        assert child.data.metrics["score/mean/dice"] > 0
        assert child.info.status == "FINISHED"


def test_the_model_folder_lists_all_folds_and_predicts_with_them(
    medseg: Callable, crossed: Path, cohort: Path, tmp_path: Path
) -> None:
    facts = read(crossed / "model" / "model.json")
    assert [one["name"] for one in facts["weights"]["members"]] == FOLDS
    assert facts["scores"]["n"] == 8
    code, _, err = medseg("predict", crossed, "--data", cohort / "images" / "case_0.nii.gz", "--out", tmp_path / "masks", "--json")  # fmt: skip
    assert code == 0, err
    beside = read(tmp_path / "masks" / "case_0.json")
    assert "4 members, mean of logits" in beside["engine"]
    assert beside["model"] == facts["hash"]


def test_several_model_folders_are_averaged_and_a_folder_given_twice_is_refused(
    medseg: Callable, crossed: Path, cohort: Path, tmp_path: Path
) -> None:
    image = cohort / "images" / "case_0.nii.gz"
    two = [crossed / "folds" / name / "model" for name in FOLDS[:2]]
    code, _, err = medseg("predict", *two, "--data", image, "--out", tmp_path / "two", "--set", "predict.ensemble=probabilities", "--json")  # fmt: skip
    assert code == 0, err
    assert "2 members, mean of probabilities" in read(tmp_path / "two" / "case_0.json")["engine"]
    code, _, err = medseg("predict", two[0], two[0], "--data", image, "--out", tmp_path / "twice")
    assert code == 2
    assert "given twice" in err


def test_folds_trained_by_jobs_of_their_own_come_to_the_same(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    once, jobs = tmp_path / "once", tmp_path / "jobs"
    common = ("--data", cohort, *QUICK, "--set", "data.split.folds=2", "--json")
    assert medseg("run", journey, "--out", once, "--folds", "all", *common)[0] == 0
    code, first, _ = medseg("run", journey, "--out", jobs, "--folds", "1", *common)
    assert code == 0
    assert first["scores"]["n"] == 4
    code, second, _ = medseg("run", journey, "--out", jobs, "--folds", "0", *common)
    assert code == 0
    assert second["scores"]["n"] == 8
    assert [one["name"] for one in second["scores"]["folds"]["trainings"]] == ["fold-0", "fold-1"]
    hashes = [read(place / "model" / "model.json")["hash"] for place in (once, jobs)]
    assert hashes[0] == hashes[1]
    assert read(once / "scores.json")["mean"] == read(jobs / "scores.json")["mean"]


def test_a_fold_of_other_settings_is_left_out_and_named(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    common = ("--data", cohort, "--out", tmp_path, "--set", "track.enabled=false", "--json")
    assert medseg("run", journey, "--folds", "0", "--set", "train.steps=4", *common)[0] == 0
    code, facts, _ = medseg("run", journey, "--folds", "1", "--set", "train.steps=5", *common)
    assert code == 0
    assert facts["scores"]["folds"]["left_out"] == ["fold-0"]
    assert facts["scores"]["folds"]["folds"] == [1]


def test_a_run_that_is_killed_between_folds_goes_on_where_it_was(
    journey: Path, cohort: Path, tmp_path: Path, medseg: Callable
) -> None:
    out = tmp_path / "killed"
    words = [
        "run",
        str(journey),
        "--data",
        str(cohort),
        "--out",
        str(out),
        "--folds",
        "all",
        *QUICK,
        "--set",
        "data.split.folds=3",
    ]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-m", "medseg", *words],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    done = out / "folds" / "fold-0" / "member.json"
    deadline = time.monotonic() + 300
    while not done.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert done.exists()
    assert not (out / "scores.json").exists()
    before = (out / "folds" / "fold-0" / "model" / "model.json").stat().st_mtime_ns
    code, facts, err = medseg(*words, "--json")
    assert code == 0, err
    assert facts["scores"]["n"] == 8
    assert len(facts["scores"]["folds"]["trainings"]) == 3
    assert (out / "folds" / "fold-0" / "model" / "model.json").stat().st_mtime_ns == before


def test_seeds_have_a_spread_of_their_own(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    code, facts, err = medseg("run", journey, "--data", cohort, "--out", tmp_path, "--set", "train.seeds=2", *QUICK, "--json")  # fmt: skip
    assert code == 0, err
    folds = facts["scores"]["folds"]
    assert [one["name"] for one in folds["trainings"]] == ["split", "split-seed-18"]
    ones = [one["mean"]["dice"] for one in folds["trainings"]]
    assert folds["over_seeds"]["mean"]["dice"]["sd"] == pytest.approx(statistics.stdev(ones))
    assert folds["over_folds"]["mean"]["dice"]["sd"] is None
    assert facts["scores"]["n"] == 2
    models = {
        read(tmp_path / "folds" / one / "model" / "model.json")["hash"] for one in ("split", "split-seed-18")
    }
    assert len(models) == 2


def test_test_cases_stay_apart_and_are_predicted_by_all_trainings_together(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    code, facts, err = medseg("run", journey, "--data", cohort, "--out", tmp_path, "--folds", "0,1", *QUICK,
                              "--set", "data.split.test_fraction=0.25", "--set", "data.split.folds=2", "--json")  # fmt: skip
    assert code == 0, err
    table = pd.read_parquet(tmp_path / "cases.parquet").set_index("case")
    tested = set(table.index[table["split"] == "test"])
    assert len(tested) == 2
    assert {p.stem for p in (tmp_path / "predictions").glob("*.json")} == tested
    assert set(pd.read_parquet(tmp_path / "scores.parquet")["case"]) == tested
    assert not tested & set(pd.read_parquet(tmp_path / "folds" / "scores.parquet")["case"])
    assert facts["scores"]["n"] == 2
    assert sum(one["n"] for one in facts["scores"]["folds"]["trainings"]) == 6


def test_systems_are_compared_over_folds_and_the_best_is_written_down(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, facts, err = medseg("run", journey, "--data", cohort, "--out", out, "--folds", "all", *QUICK,
                              "--set", "system=[{name: 3d-u-net, size: tiny}, {name: u-net, size: tiny}]",
                              "--set", "data.split.folds=2", "--json")  # fmt: skip
    assert code == 0, err
    choice = read(out / "choice.json")
    assert facts["choice"]["chosen"] == choice["chosen"]
    best = max(choice["candidates"], key=lambda row: row["dice"])
    assert choice["chosen"] in choice["ties"]
    assert best["system"] in choice["ties"]
    assert all(row["n"] == 8 and row["folds"] == 2 and row["seconds"] > 0 for row in choice["candidates"])
    assert "Choice" in (out / "report.html").read_text()
    code, again, err = medseg("compare", out, "--json", "--out", tmp_path / "choice.json")
    assert code == 0, err
    assert again["chosen"] == f"run/{choice['chosen']}"
    assert read(tmp_path / "choice.json")["chosen"] == again["chosen"]
    code, text, _ = medseg("compare", out)
    assert "chosen" in text
    assert "rule:" in text


def test_the_mean_of_two_systems_is_an_entry_of_its_own_and_chosen_only_when_better(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    asked = ("run", journey, "--data", cohort, "--out", out, "--folds", "all", *QUICK,
             "--set", "system=[{name: 3d-u-net, size: tiny}, {name: u-net, size: tiny}]", "--set", "data.split.folds=2",
             "--set", "train.patch_size=[16,16,16]", "--set", "predict.overlap=0", "--set", "score.pairs=true")  # fmt: skip
    code, facts, err = medseg(*asked, "--json")
    assert code == 0, err
    rows = {row["system"]: row for row in read(out / "choice.json")["candidates"]}
    both = "3d-u-net-tiny+u-net-tiny"
    assert set(rows) == {"3d-u-net-tiny", "u-net-tiny", both}
    assert (rows[both]["n"], rows[both]["folds"]) == (8, 2)
    assert rows[both]["seconds"] > rows["3d-u-net-tiny"]["seconds"] + rows["u-net-tiny"]["seconds"]
    single = max(rows[name]["dice"] for name in ("3d-u-net-tiny", "u-net-tiny"))
    assert (facts["choice"]["chosen"] == both) == (rows[both]["dice"] >= single + 0.001)
    model = read(out / "systems" / both / "model" / "model.json")
    members = {one["name"] for one in model["weights"]["members"]}
    assert members == {f"fold-{k}-{name}" for k in (0, 1) for name in ("3d-u-net-tiny", "u-net-tiny")}
    fold = read(out / "systems" / both / "folds" / "fold-0" / "model" / "model.json")
    assert {one["name"] for one in fold["weights"]["members"]} == {"3d-u-net-tiny", "u-net-tiny"}
    assert both in (out / "report.html").read_text()
    code, again, err = medseg("compare", out, "--json")
    assert {row["system"]: row["seconds"] for row in again["candidates"]} == {
        f"run/{name}": row["seconds"] for name, row in rows.items()
    }
    code, _, err = medseg(*asked)
    assert code == 0, err
    assert f"{both}/fold-0 unchanged, not done again" in (out / "run.log").read_text()

    def differ(*_: object) -> None:
        raise UserError("2 models cannot be averaged", "ensemble", faults=("patch_size: 16 and 32",))

    monkeypatch.setattr(mean_of_two, "_require_alike", differ)
    assert list(mean_of_two.found_pairs(load_pipeline(out / "pipeline.yaml"), RunFolder(out))) == []
    assert not (out / "systems" / both).exists()


def test_pairs_of_one_system_or_without_folds_are_refused() -> None:
    alone = {"name": "t", "system": "u-net", "score": {"pairs": True}, "train": {"folds": "all"}}
    with pytest.raises(UserError, match="this run has one system"):
        mean_of_two.refuse_alone(Pipeline.model_validate(alone))
    unfolded = {"name": "t", "system": ["u-net", "v-net"], "score": {"pairs": True}}
    with pytest.raises(UserError, match="this run has no folds") as caught:
        mean_of_two.refuse_alone(Pipeline.model_validate(unfolded))
    assert caught.value.where == "score.pairs"


def test_status_shows_every_training(medseg: Callable, crossed: Path) -> None:
    code, facts, _ = medseg("status", crossed, "--json")
    assert code == 0
    assert set(facts["steps"]) == {"", *(f"folds/{name}".removeprefix("folds/") for name in FOLDS)}
    assert list(facts["steps"]["fold-2"]) == ["train", "predict", "score"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--folds", "7"), ("no fold 7", "0, 1, 2, 3")),
        (("--folds", "some"), ("train.folds", "all")),
        (("--folds", "all", "--set", "predict.cases=all"), ("predict.cases is all", "has not seen it")),
        (("--set", "train.folds=[]"), ("train.folds is empty",)),
    ],
)
def test_folds_that_cannot_be_are_refused(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path, words: tuple, said: tuple
) -> None:
    code, _, err = medseg("run", journey, "--data", cohort, "--out", tmp_path / "run", *QUICK, *words)
    assert code == 2
    for word in said:
        assert word in err, err
    assert "Traceback" not in err


def test_folds_and_a_trained_model_contradict_each_other(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    (given / "model.json").write_text("{}")
    code, _, err = medseg("run", journey, "--data", cohort, "--model", given, "--out", tmp_path / "run", "--folds", "all")  # fmt: skip
    assert code == 2
    assert "leave out one of them" in err


def test_a_split_that_is_given_has_no_folds(
    medseg: Callable, journey: Path, cohort: Path, tmp_path: Path
) -> None:
    split = tmp_path / "split.csv"
    rows = [f"case_{n},{'val' if n < 2 else 'train'}" for n in range(8)]
    split.write_text("case,split\n" + "\n".join(rows) + "\n")
    code, _, err = medseg("run", journey, "--data", cohort, "--out", tmp_path / "run", "--folds", "all", *QUICK,
                          "--set", f"data.split.file={split}")  # fmt: skip
    assert code == 2
    assert "the cases have no folds" in err
    assert "data.split.file" in err


def test_masks_of_the_joined_model_are_those_of_its_mean(crossed: Path, cohort: Path) -> None:
    import medseg

    image = cohort / "images" / "case_2.nii.gz"
    joined = medseg.predict(crossed / "model", image)
    listed = medseg.predict([crossed / "folds" / name / "model" for name in FOLDS], image)
    steps = read(crossed / "postprocessing.json")["steps"]
    if not steps:
        assert np.array_equal(joined.labels, listed.labels)
    else:
        changed = joined.labels != listed.labels
        assert set(np.unique(joined.labels[changed])) <= {0, 1, 2}
    assert joined.geometry.same_grid(listed.geometry)
