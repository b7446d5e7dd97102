"""Shares of a cohort, what failed before, a trial, and the manifest of it all; a killed call goes on where it was."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas
import pytest

from medseg.cli_predict import say_status
from medseg.config import IntensityPlan, Pipeline, Plan, System
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo
from medseg.jobs import journal
from medseg.model.folder import build_system, save_model
from medseg.predict.folder import predict_folder
from medseg.predict.manifest import journal_of, states_of
from medseg.predict.share import Share

ROOT = Path(__file__).parents[2]
CASES = 6
TOUCHES = ("open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.scandir", "sqlite3.connect")
"""Events of Python's audit at which a process of the kill test may die."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(0)
    plan = Plan(dims=3, in_channels=1, classes=[ClassInfo("organ", 1, (1, 2, 3)).as_json()], out_channels=2,
                spacing_mm=[2.0, 2.0, 2.0], intensity=[IntensityPlan(scheme="window", low=-1000, high=400)],
                image_order=1, patch_size=[16, 16, 16], batch_size=1)  # fmt: skip
    system = System(name="3d-u-net", size="tiny")
    folder = tmp_path_factory.mktemp("model") / "model"
    save_model(folder, build_system(system, plan), system=system, plan=plan)
    return folder


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(CASES):
        array = rng.normal(-300, 400, (18, 16, 20)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(array, np.diag([2.0, 2, 2, 1])), folder / f"case{number}.nii.gz")
    return folder


def settings() -> Pipeline:
    return Pipeline.model_validate({"name": "predict", "system": "from-model", "compute": {"cores": 1},
                                    "predict": {"precision": "fp32"}})  # fmt: skip


def masks(out: Path) -> set[str]:
    return {path.name for path in out.glob("[!.]*.nii.gz")}


def test_shares_meet_every_case_once(model: Path, cohort: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "out", 0
    for number in (1, 2, 3, 4):
        result = predict_folder(model, cohort, out, settings(), Share(shard=f"{number}/4"))
        seen += result.details["new"]
    assert seen == CASES
    assert len(masks(out)) == CASES
    assert sorted(p.name for p in (out / "manifest").glob("*.sqlite"))[0] == "journal-1-of-4.sqlite"
    totals = json.loads((out / "manifest" / "manifest.json").read_text())["totals"]
    assert totals["cases"] == CASES


def test_the_status_of_some_shares_counts_every_case_of_the_input(
    model: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (cohort / "case5.nii.gz").write_bytes(b"damaged")
    predict_folder(model, cohort, out, settings(), Share(shard="2/4"))
    found = states_of(out)
    assert sum(found.counts.values()) == CASES, "1 and 5 of the second share, and those that nobody began"
    assert (found.counts["failed"], found.counts["waiting"]) == (1, 4)
    assert found.not_begun == ["case0", "case2", "case3", "case4"]
    say_status(out, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert "1 failed, 4 waiting" in lines[0]
    assert lines[-1] == "4 of the waiting are in no call yet: another share, or all without --trial"
    assert not any("goes on" in line for line in lines), "the call that was made is through"
    for number in (1, 3, 4):
        predict_folder(model, cohort, out, settings(), Share(shard=f"{number}/4"))
    found = states_of(out)
    assert found.counts["done"] + found.counts["review"] == CASES - 1, "no share's list hides another's masks"
    assert (found.counts["failed"], found.counts["waiting"], found.not_begun) == (1, 0, [])


@pytest.mark.parametrize("one", [False, True], ids=["folder", "one image"])
def test_an_image_is_never_written_over(model: Path, cohort: Path, one: bool) -> None:
    before = {path.name: path.read_bytes() for path in cohort.iterdir()}
    data = sorted(cohort.iterdir())[0] if one else cohort
    for _ in range(2):  # a refused call leaves nothing that would let the next one pass
        with pytest.raises(
            UserError, match=r"would be written over, and medseg did not make them: case0\.nii\.gz"
        ):
            predict_folder(model, data, cohort, settings())
    assert {name: (cohort / name).read_bytes() for name in before} == before


def test_an_image_that_was_put_beside_the_masks_is_not_written_over(
    model: Path, cohort: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict_folder(model, sorted(cohort.iterdir())[1], out, settings())
    image = out / "case0.nii.gz"
    image.write_bytes((cohort / "case0.nii.gz").read_bytes())
    with pytest.raises(UserError, match="1 files there would be written over"):
        predict_folder(model, image, out, settings())
    assert image.read_bytes() == (cohort / "case0.nii.gz").read_bytes()


def test_labels_of_the_same_names_are_not_written_over(model: Path, cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "case1.nii.gz").write_bytes(b"drawn by hand")
    with pytest.raises(UserError, match="choose another folder for the masks"):
        predict_folder(model, cohort, tmp_path / "labels", settings())
    assert (tmp_path / "labels" / "case1.nii.gz").read_bytes() == b"drawn by hand"


def test_without_its_journals_the_status_counts_what_lies_there(
    model: Path, cohort: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict_folder(model, cohort, out, settings(), Share(shard="1/4"))
    before = states_of(out)
    for book in (out / "manifest").glob("*.sqlite"):
        book.unlink()
    after = states_of(out)
    done = ("done", "review")
    assert [after.counts[state] for state in done] == [before.counts[state] for state in done]
    assert predict_folder(model, cohort, out, settings(), Share(shard="1/4")).details["kept"] == 2, "goes on"
    assert after.named == before.named


def test_the_status_counts_what_is_no_case_and_says_so_to_scripts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book = journal_of(tmp_path, "1-of-2")
    journal.list_input(book, "predict", "", ["a", "b", "c"], {"scout": "a localiser"})
    journal.begin(book, "predict", "", ["a", "c"])
    say_status(tmp_path, as_json=False)
    text = capsys.readouterr().out
    assert "0 done, 0 to look at, 0 failed, 3 waiting, 1 left out" in text
    assert "the same `medseg predict` call goes on" in text
    say_status(tmp_path, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["counts"] == {"done": 0, "review": 0, "failed": 0, "waiting": 3, "left_out": 1}
    assert facts["not_begun"] == ["b"]


@pytest.mark.parametrize("shard", ["0/4", "5/4", "a/b", "3", "1/0"])
def test_what_is_no_share_is_refused(shard: str) -> None:
    with pytest.raises(UserError, match="is no share") as caught:
        _ = Share(shard=shard).parts
    assert "3/8" in str(caught.value)


def test_only_failed_does_what_failed_and_nothing_else(model: Path, cohort: Path, tmp_path: Path) -> None:
    out, bad = tmp_path / "out", cohort / "case3.nii.gz"
    good = bad.read_bytes()
    bad.write_bytes(b"damaged")
    first = predict_folder(model, cohort, out, settings())
    assert set(first.failed) == {"case3"}
    assert [row["case"] for row in csv.DictReader((out / "manifest" / "failed.csv").open())] == ["case3"]
    bad.write_bytes(good)
    again = predict_folder(model, cohort, out, settings(), Share(only="failed"))
    assert (again.done, again.details["new"]) == (1, 1)
    assert list(csv.DictReader((out / "manifest" / "failed.csv").open())) == []
    with pytest.raises(UserError, match="no case failed before"):
        predict_folder(model, cohort, out, settings(), Share(only="failed"))


def test_a_failed_case_whose_file_is_gone_is_left_out_so_that_counts_add_up_to_the_input(
    model: Path, cohort: Path, tmp_path: Path
) -> None:
    out, bad, other = tmp_path / "out", cohort / "case3.nii.gz", tmp_path / "other"
    bad.write_bytes(b"damaged")
    (cohort / "case4.nii.gz").write_bytes(b"damaged")
    predict_folder(model, cohort, out, settings())
    shutil.copytree(cohort, other)
    (other / "case4.nii.gz").unlink()
    predict_folder(model, other, out, settings())
    assert states_of(out).counts["failed"] == 2, "that another folder lacks it says nothing"
    predict_folder(model, cohort, out, settings())
    bad.unlink()
    predict_folder(model, cohort, out, settings())
    found = states_of(out)
    assert (found.counts["failed"], found.counts["left_out"]) == (1, 1)
    assert sum(found.counts.values()) == CASES
    manifest = json.loads((out / "manifest" / "manifest.json").read_text())
    assert manifest["left_out"]["case3"].startswith(
        "its file is not in the data any more; it failed before: "
    )
    assert [row["case"] for row in csv.DictReader((out / "manifest" / "failed.csv").open())] == ["case4"]
    (cohort / "case4.nii.gz").unlink()
    with pytest.raises(UserError, match="no case failed before"):
        predict_folder(model, cohort, out, settings(), Share(only="failed"))
    assert states_of(out).counts["failed"] == 0


def test_shares_of_what_failed_are_the_same_whatever_other_jobs_have_done(
    model: Path, cohort: Path, tmp_path: Path
) -> None:
    out, bad = tmp_path / "out", [cohort / f"case{number}.nii.gz" for number in (1, 3, 4)]
    good = [path.read_bytes() for path in bad]
    for path in bad:
        path.write_bytes(b"damaged")
    predict_folder(model, cohort, out, settings())
    for path, content in zip(bad, good):
        path.write_bytes(content)
    first, second = (
        predict_folder(model, cohort, out, settings(), Share(only="failed", shard=f"{number}/2"))
        for number in (1, 2)
    )
    assert (first.details["new"], second.details["new"]) == (1, 2)
    assert list(csv.DictReader((out / "manifest" / "failed.csv").open())) == []


def test_a_trial_says_what_the_cohort_will_cost(model: Path, cohort: Path, tmp_path: Path) -> None:
    result = predict_folder(model, cohort, tmp_path / "out", settings(), Share(trial=2))
    assert len(masks(tmp_path / "out")) == 2
    forecast = result.details["forecast"]
    assert forecast["cases"] == CASES
    assert forecast["hours"] > 0
    assert "all 6 cases: about" in result.line


def test_the_manifest_names_every_file_with_its_hash_and_volume(
    model: Path, cohort: Path, tmp_path: Path
) -> None:
    import hashlib

    out = tmp_path / "out"
    (cohort / "case0.nii.gz").write_bytes(b"no image")
    predict_folder(model, cohort, out, settings())
    facts = json.loads((out / "manifest" / "manifest.json").read_text())
    assert facts["totals"]["cases"] == CASES == sum(facts["totals"][s] for s in ("done", "review", "failed"))
    row = next(row for row in facts["cases"] if row["case"] == "case1")
    assert row["sha256"] == [hashlib.sha256((out / name).read_bytes()).hexdigest() for name in row["files"]]
    assert len(row["model"]) == 64
    image = np.asarray(nibabel.load(cohort / "case1.nii.gz").dataobj)
    mask = np.asarray(nibabel.load(out / "case1.nii.gz").dataobj)
    if mask.any():
        assert row["intensity"]["organ"]["mean"] == pytest.approx(image[mask == 1].mean(), abs=0.01)
        assert row["intensity"]["organ"]["sd"] == pytest.approx(image[mask == 1].std(), abs=0.01)
    for table in (
        pandas.read_csv(out / "manifest" / "manifest.csv"),
        pandas.read_parquet(out / "manifest" / "manifest.parquet"),
    ):
        assert list(table["case"]) == [row["case"] for row in facts["cases"]]
        order = ["review", "failed", "done"]
        assert "failed" in set(table["state"])
        assert list(table["state"]) == sorted(table["state"], key=order.index), "those to look at come first"
        assert "organ ml" in table.columns


def test_a_manifest_that_says_the_same_is_not_written_again(
    model: Path, cohort: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict_folder(model, cohort, out, settings())
    before = {p.name: p.stat().st_mtime_ns for p in (out / "manifest").glob("manifest.*")}
    predict_folder(model, cohort, out, settings())
    assert before == {p.name: p.stat().st_mtime_ns for p in (out / "manifest").glob("manifest.*")}


# --- kill -9 ------------------------------------------------------------------------------------------------------


def _child(model: Path, cohort: Path, out: Path, kill_at: int, count: Path) -> int:
    """A prediction in a process of its own, forked so that nothing has to be imported again; returns its exit status.

    It kills itself when it touches a file or folder of `out` for the `kill_at`th time, before that is done: the same
    moment on every machine and under any load. What would have been given its final name is cut in half first, like
    bytes that never reached the disk. One that comes to its end writes how often it touched something to `count`.
    """
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    touched = 0

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal touched
        if event not in TOUCHES or not isinstance(args[0], str | os.PathLike):
            return
        path = os.fspath(args[0])
        if not str(path).startswith(str(out)):
            return
        touched += 1
        if touched == kill_at:
            if event == "os.rename" and os.path.isfile(path):
                os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        sys.addaudithook(watch)
        predict_folder(model, cohort, out, settings())
        count.write_text(str(touched))
        os._exit(0)
    except BaseException:
        os._exit(9)


def _outputs(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("[!.]*.nii.gz")}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_twenty_kills_at_random_moments_end_in_the_same_bytes(
    model: Path, cohort: Path, tmp_path: Path
) -> None:
    import torch

    torch.set_num_threads(1)
    for number in range(3, CASES):
        (cohort / f"case{number}.nii.gz").unlink()
    count, out, dice, kills = tmp_path / "count", tmp_path / "out", random.Random(1), 0
    assert _child(model, cohort, tmp_path / "whole", 0, count) == 0
    touches = int(count.read_text())
    assert touches > 20
    for _ in range(100):
        status = _child(model, cohort, out, dice.randint(1, touches), count)
        kills += os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or status == 0
        for path in out.glob("case*.json"):
            facts: dict[str, Any] = json.loads(path.read_text())
            assert all((out / name).is_file() for name in facts["files"]), "complete without its mask"
        if kills == 20:
            break
        if status == 0:
            # All is done before the twentieth kill: some of it has to be made again.
            for path in sorted(out.glob("case*"))[: 2 * dice.randint(1, 3)]:
                path.unlink()
    assert kills == 20
    assert predict_folder(model, cohort, out, settings()).done == 3
    assert _outputs(out) == _outputs(tmp_path / "whole")
    assert not [path for path in out.rglob("*") if path.name.startswith(".part-")]


def test_a_killed_command_goes_on(model: Path, cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "medseg", "predict", str(model), "--data", str(cohort), "--out", str(out),
               "--set", "predict.precision=fp32", "--set", "compute.cores=1"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        end = time.monotonic() + 120
        while not masks(out) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        process.kill()
    predict_folder(model, cohort, out, settings())
    predict_folder(model, cohort, tmp_path / "whole", settings())
    assert _outputs(out) == _outputs(tmp_path / "whole")
