"""Tracking: one local file that can be copied, a spool when the store is away, and nothing private."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medseg.config import Pipeline
from medseg.core import UserError
from medseg.remember import _settings
from medseg.track.mlflow_store import Tracker, default_uri, flatten, ui_command


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database with its tables made, copied by each test: making them takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    Tracker.open(default_uri(folder), "first", "first", folder / "first").close()
    return folder / "mlflow.db"


@pytest.fixture
def runs(tmp_path: Path, empty_store: Path) -> Path:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


def read(runs: Path, run_id: str):
    from mlflow import MlflowClient

    return MlflowClient(default_uri(runs)).get_run(run_id)


def test_what_is_logged_is_found_again_also_in_a_copy(
    runs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tracker = Tracker.open(default_uri(runs), "lungs", "run-1", runs / "run-1", {"colour": "blue"})
    tracker.params({"train": {"loss": "dice", "steps": 5}})
    tracker.metrics({"score/mean/dice": 0.9, "absent": None, "nan": float("nan")}, step=3)
    tracker.close()
    copy = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(runs / "mlflow.db", copy / "mlflow.db")
    found = read(copy, tracker.run_id)
    assert found.data.params == {"train.loss": "dice", "train.steps": "5"}
    assert found.data.metrics == {"score/mean/dice": 0.9}
    assert found.data.tags["colour"] == "blue"
    assert found.info.status == "FINISHED"
    assert not (runs / "run-1" / "tracking-spool.jsonl").exists()


def test_a_run_is_continued_not_doubled(runs: Path) -> None:
    first = Tracker.open(default_uri(runs), "lungs", "run-1", runs / "run-1")
    first.close("KILLED")
    second = Tracker.open(default_uri(runs), "lungs", "run-1", runs / "run-1", run_id=first.run_id)
    second.metrics({"a": 1.0})
    second.close()
    assert read(runs, first.run_id).data.metrics == {"a": 1.0}


def test_a_store_that_is_away_leaves_a_spool_and_no_error(tmp_path: Path) -> None:
    tracker = Tracker.open("http://127.0.0.1:9", "lungs", "run-1", tmp_path / "run-1")
    assert tracker.run_id is None
    tracker.metrics({"loss": 0.5}, step=1)
    tracker.close()
    lines = [json.loads(line) for line in tracker.spool.read_text().splitlines()]
    assert [(e["metric"], e["value"]) for e in lines] == [("loss", 0.5)]


def test_large_files_stay_in_the_run_folder(runs: Path) -> None:
    tracker = Tracker.open(default_uri(runs), "lungs", "run-1", runs / "run-1")
    (runs / "large.html").write_bytes(b"x" * 20_000_001)
    (runs / "small.html").write_bytes(b"x")
    tracker.artifact(runs / "large.html")
    tracker.artifact(runs / "small.html")
    tracker.close()
    stored = [p.name for p in (runs / "mlartifacts").rglob("*.html")]
    assert stored == ["small.html"]


def test_folders_of_people_do_not_reach_the_parameters() -> None:
    pipeline = Pipeline.model_validate(
        {
            "name": "x",
            "system": "u-net",
            "data": {"root": "/data/Müller_Hans"},
            "predict": {"model": "/data/Müller_Hans/m"},
        }
    )
    assert "Müller" not in str(flatten(_settings(pipeline)))


def test_the_pages_open_on_this_computer_only() -> None:
    command, environment = ui_command("sqlite:///a.db", 5000)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_a_store_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="is no tracking store"):
        ui_command("./mlruns", 5000)


@pytest.mark.parametrize("there", [False, True])
def test_tables_that_a_full_disk_cut_short_do_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    store = tmp_path / "mlflow.db"
    if there:
        store.write_bytes(b"runs of last week")

    class Full:
        def __init__(self, tracking_uri: str) -> None:
            store.write_bytes(store.read_bytes() if there else b"half")

        def get_experiment_by_name(self, name: str) -> None:
            raise RuntimeError("(sqlite3.OperationalError) database or disk is full")

    class Library:
        MlflowClient = Full

    monkeypatch.setattr("medseg.track.mlflow_store._quiet_mlflow", Library)
    tracker = Tracker.open(default_uri(tmp_path), "lungs", "run-1", tmp_path / "run-1")
    assert tracker.trouble == "its disk is full"
    assert store.exists() == there


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_figures_that_a_full_disk_does_not_take_are_said_once_and_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("medseg.track.mlflow_store.say", said.append)
    tracker = Tracker("sqlite:///none.db", "lungs", "run-1", Path("/dev/full"), tmp_path)
    for step in range(3):
        tracker.metrics({"train/loss": 0.5}, step)
    assert said == ["tracking: figures cannot be kept (the disk is full); the run goes on without"]


def test_half_a_line_of_the_spool_is_passed_over(runs: Path) -> None:
    tracker = Tracker.open(default_uri(runs), "lungs", "run-1", runs / "run-1")
    tracker.metrics({"train/loss": 0.5}, 1)
    with tracker.spool.open("a") as file:
        file.write('{"metric": "train/lo')
    tracker.flush()
    tracker.close()
    assert tracker.trouble is None
    assert not tracker.spool.exists()


def test_a_store_whose_disk_is_full_prints_no_traceback() -> None:
    import logging

    from medseg.track.mlflow_store import _quiet_mlflow

    _quiet_mlflow()
    assert not logging.getLogger("mlflow.store.db.utils").isEnabledFor(logging.ERROR)
