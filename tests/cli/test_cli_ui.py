"""`medseg ui` ends with all that it started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medseg.cli_tools import store_of
from medseg.core.errors import UserError
from medseg.track.mlflow_store import default_uri

ROOT = Path(__file__).parents[2]

SERVER = """
import os, signal, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
os.kill(os.getppid(), getattr(signal, sys.argv[1]))
time.sleep(600)
"""
"""A server with a worker of its own, which asks for its end as soon as the worker has been started."""

MEDSEG = """
import os, signal, sys
from medseg.cli_tools import served
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(served([sys.executable, "-c", sys.argv[1], sys.argv[2]], dict(os.environ)))
"""


@pytest.mark.parametrize("stop", ["SIGINT", "SIGTERM"])
def test_ctrl_c_and_sigterm_end_the_servers_workers_as_well(stop: str) -> None:
    done = subprocess.run(  # comes back when the last process that holds its output has ended
        [sys.executable, "-c", MEDSEG, SERVER, stop],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_ends_by_itself_gives_its_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEDSEG, "import sys; print(sys.argv[1]); sys.exit(3)", "its words"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 3
    assert (done.stdout, "its words" in done.stderr) == ("", True)


def test_a_run_that_is_not_there_or_was_not_tracked_gets_no_empty_pages(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder"):
        store_of(tmp_path / "run-7")
    (tmp_path / "run-1").mkdir()
    with pytest.raises(UserError, match="there is no MLflow store of this run"):
        store_of(tmp_path / "run-1")
    assert [path.name for path in tmp_path.rglob("*")] == ["run-1"]


def test_the_store_of_a_run_is_found_also_after_both_were_moved(tmp_path: Path) -> None:
    run, store = tmp_path / "runs" / "a-1", tmp_path / "runs" / "mlflow.db"
    run.mkdir(parents=True)
    (run / "tracking.json").write_text('{"uri": "sqlite:////old place/mlflow.db"}')
    store.touch()
    assert store_of(run) == store_of(tmp_path / "runs") == default_uri(tmp_path / "runs")
    (run / "tracking.json").write_text('{"uri": "http://127.0.0.1:9"}')
    assert store_of(run) == "http://127.0.0.1:9"
