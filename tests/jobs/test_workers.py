"""Workers that are processes: they are called by name, die alone, and what they did is done again."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from medseg.config import Pipeline
from medseg.config_types import Cluster
from medseg.core.errors import Interrupted, UserError
from medseg.core.machine import parse_bytes
from medseg.core.run import Result
from medseg.io.doors import content_hash
from medseg.jobs import journal, worker
from medseg.jobs.cluster import batch_jobs, describe, pods
from medseg.jobs.executor import map_cases, open_workers, worker_count
from medseg.jobs.processes import Processes

needs_fifo = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


def write_when_read(pipe: Path, data: bytes) -> None:
    """Opening waits for a reader."""
    pipe.write_bytes(data)


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


def kill_the_reader(pool: Processes) -> None:
    wait_for(lambda: pool.pids)
    (pid,) = pool.pids
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: pid not in pool.pids)


def test_functions_are_called_by_name_and_errors_come_back_as_sentences() -> None:
    with Processes(1) as pool:
        assert pool.submit(parse_bytes, "2 GB").result() == 2 * 10**9
        error = pool.submit(parse_bytes, "many").exception()
        assert isinstance(error, UserError)
        assert "'many' is no amount of memory" in str(error)
        assert "6 GB" in error.hint
        assert pool.submit(parse_bytes, 3).result() == 3
    assert pool.pids == []


def test_a_foreign_error_names_its_kind_and_keeps_its_text(capfd: pytest.CaptureFixture) -> None:
    answer = worker.answer_to({"call": "medseg.core.machine:parse_bytes", "arguments": [None]})
    assert answer["error"]["what"] == "TypeError in a worker"
    assert "Traceback" in capfd.readouterr().err


def test_nothing_outside_the_package_can_be_called() -> None:
    answer = worker.answer_to({"call": "os:getpid", "arguments": []})
    assert answer["error"]["what"] == "'os:getpid' is no function of medseg"


@needs_fifo
def test_a_task_whose_worker_is_killed_is_done_by_another(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    with Processes(1) as pool:
        future = pool.submit(content_hash, str(pipe))
        kill_the_reader(pool)
        write_when_read(pipe, b"voxels")
        assert future.result() == hashlib.sha256(b"voxels").hexdigest()


@needs_fifo
def test_a_task_that_kills_every_worker_fails_with_the_signal_and_the_others_go_on(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    with Processes(1) as pool:
        future = pool.submit(content_hash, str(pipe))
        other = pool.submit(parse_bytes, "3 kB")
        kill_the_reader(pool)
        kill_the_reader(pool)
        error = future.exception()
        assert isinstance(error, UserError)
        assert "died 2 times (signal SIGKILL)" in error.what
        assert "compute.cluster.workers" in error.hint
        assert other.result() == 3000


@needs_fifo
def test_after_an_error_nobody_waits_for_what_workers_do(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    start = time.monotonic()
    futures = []

    def interrupted() -> None:
        with Processes(1) as pool:
            futures.append(pool.submit(content_hash, str(pipe)))
            wait_for(lambda: pool.pids)
            raise Interrupted("SIGTERM")

    with pytest.raises(Interrupted):
        interrupted()
    assert futures[0].done()
    assert time.monotonic() - start < 60


def test_many_items_go_through_workers_and_bad_ones_are_named() -> None:
    with open_workers(Cluster(kind="processes", workers=2)) as pool:
        items = ["1 kB", "much", "3 kB", "5 kB"]
        found = {o.item: o for o in map_cases(parse_bytes, items, "test", workers=2, pool=pool)}
        again = list(map_cases(parse_bytes, ["7 kB"], "test", pool=pool))
    assert found["3 kB"].value == 3000
    assert found["much"].reason == "'much' is no amount of memory -> write it like 6 GB or 800 MB"
    assert again[0].value == 7000


def test_the_journal_knows_cases_that_are_still_waiting(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal.begin(path, "predict", "", ["a", "b", "c"])
    journal.note(path, "predict", "", "a", "done")
    journal.note(path, "predict", "", "b", "failed", "gap")
    assert journal.counts(path, "predict") == {"waiting": 1, "done": 1, "failed": 1}
    assert journal.outcomes(path) == [("predict", "", "b", "failed", "gap")]
    journal.record(path, "", Result("predict", "one done", 2, failed={"b": "gap"}), noted=True)
    assert journal.counts(path, "predict") == {"done": 2, "failed": 1}


def test_a_later_call_on_some_cases_forgets_nothing_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal.begin(path, "predict", "", ["a", "b"])
    journal.note(path, "predict", "", "a", "failed", "gap")
    journal.record(path, "", Result("predict", "", 1, failed={"a": "gap"}), noted=True)
    journal.begin(path, "predict", "", ["b"])
    journal.record(path, "", Result("predict", "", 1), noted=True)
    assert journal.outcomes(path, "failed") == [("predict", "", "a", "failed", "gap")]


def test_all_of_the_input_is_listed_and_what_is_known_of_a_case_stays(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal.list_input(path, "predict", "", ["a", "b", "c"], {"d": "no image"})
    journal.begin(path, "predict", "", ["a"])
    journal.note(path, "predict", "", "a", "done")
    journal.list_input(path, "predict", "", ["a", "b", "d"], {"c": "damaged"})
    assert journal.counts(path, "predict") == {"done": 1, "listed": 2, "skipped": 1}
    assert journal.outcomes(path) == [("predict", "", "c", "skipped", "damaged")]
    journal.record(path, "", Result("predict", "one done", 1, skipped={"c": "damaged"}), noted=True)
    assert journal.counts(path, "predict") == {"done": 1, "listed": 2, "skipped": 1}


# --- settings -----------------------------------------------------------------------------------------------------


def cluster_of(value: object) -> Cluster:
    return Pipeline.model_validate(
        {"name": "a", "system": "x", "compute": {"cluster": value}}
    ).compute.cluster


def test_a_cluster_is_a_name_or_a_section() -> None:
    assert cluster_of("slurm") == cluster_of({"kind": "slurm"})
    assert worker_count(cluster_of("none")) == 1
    assert worker_count(cluster_of("slurm")) == 4
    assert worker_count(cluster_of({"kind": "pbs", "workers": 9})) == 9
    assert describe(cluster_of({"kind": "pbs", "workers": 9})) == "9 batch jobs of pbs"


@pytest.mark.parametrize(
    "value", ["condor", {"kind": "slurm", "workers": 0}, {"kind": "dask", "address": "head:8786"}]
)
def test_what_is_no_cluster_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"cluster"):
        cluster_of(value)


def test_batch_jobs_do_one_case_at_a_time_and_take_the_options_as_they_are() -> None:
    options = {"queue": "gpu", "memory": "16GB", "worker_extra_args": ["--resources", "GPU=1"]}
    found = batch_jobs(Cluster(kind="slurm", options=options))
    assert (found["queue"], found["memory"], found["processes"]) == ("gpu", "16GB", 1)
    assert found["worker_extra_args"] == [
        "--resources", "GPU=1", "--nthreads", "1", "--memory-limit", "0"
    ]  # fmt: skip


def test_pods_do_one_case_at_a_time() -> None:
    found = pods(Cluster(kind="kubernetes", options={"image": "medseg:1"}))
    assert found["image"] == "medseg:1"
    assert found["worker_command"][-4:] == ["--nthreads", "1", "--memory-limit", "0"]


@pytest.mark.parametrize("kind", ["slurm", "pbs", "sge", "lsf"])
def test_the_job_file_of_every_batch_system_has_the_options_and_one_thread(kind: str) -> None:
    jobqueue = pytest.importorskip("dask_jobqueue")
    from medseg.jobs.cluster import QUEUES

    made = getattr(jobqueue, QUEUES[kind])(
        **batch_jobs(Cluster(kind=kind, options={"queue": "long", "walltime": "02:00", "memory": "12GB"}))
    )
    try:
        script = made.job_script()
    finally:
        made.close()
    assert "long" in script
    assert script.rstrip().endswith("--nthreads 1 --memory-limit 0")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", None)
    pytest.importorskip("distributed")
    with pytest.raises(UserError, match="needs the package dask-kubernetes") as caught:
        open_workers(Cluster(kind="kubernetes"))
    assert "medseg[kubernetes]" in caught.value.hint


def test_an_option_that_the_batch_system_does_not_know_is_named() -> None:
    pytest.importorskip("dask_jobqueue")
    with pytest.raises(UserError, match="cluster could not be set up") as caught:
        open_workers(Cluster(kind="slurm", options={"no_such_option": 1}))
    assert "no_such_option" in str(caught.value)
    assert threading.active_count() < 100
