"""Several processes of one training: who is named when one fails, what is handed on, what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medseg.config import Pipeline
from medseg.core.errors import Interrupted, UserError
from medseg.core.run import Result, RunFolder
from medseg.train import several


def script(text: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", text])


def asleep() -> subprocess.Popen[bytes]:
    return script("import time; time.sleep(60)")


@pytest.fixture
def pipeline() -> Callable[..., Pipeline]:
    def make(**compute: Any) -> Pipeline:
        return Pipeline.model_validate(
            {"name": "x", "system": "u-net", "compute": {"device": "cpu", **compute}}
        )

    return make


def test_a_process_that_is_killed_is_named_with_its_signal_and_the_others_end(tmp_path: Path) -> None:
    processes = [asleep(), script("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")]
    with pytest.raises(UserError, match=r"process 1 of the training was killed by SIGKILL") as caught:
        several.watch(processes, tmp_path)
    assert "--resume goes on" in caught.value.hint
    assert all(process.poll() is not None for process in processes)


def test_a_process_that_fails_is_named_with_its_code(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="process 0 of the training ended with code 3"):
        several.watch([script("raise SystemExit(3)"), asleep()], tmp_path)


def test_the_sentence_of_the_process_that_failed_is_handed_on(tmp_path: Path) -> None:
    wrong = UserError("no training case has a label", "cases.parquet", "add labels")
    (tmp_path / "error.json").write_text(json.dumps(wrong.as_json()))
    with pytest.raises(UserError) as caught:
        several.watch([script("raise SystemExit(2)")], tmp_path)
    assert str(caught.value) == str(wrong)


def test_a_request_to_stop_reaches_every_process_once(tmp_path: Path) -> None:
    waits = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); print('r', flush=True); time.sleep(60)"
    processes = [subprocess.Popen([sys.executable, "-c", waits], stdout=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Interrupted, match="SIGTERM"):
        several.watch(processes, tmp_path)
    assert [process.returncode for process in processes] == [75, 75]


def test_a_process_that_was_asked_to_stop_from_outside_makes_an_interruption(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        several.watch([script("raise SystemExit(75)"), asleep()], tmp_path)


def test_the_batch_is_shared_and_a_rest_rounded_up(plan: Callable) -> None:
    assert several.share_batch(plan(batch_size=4), 2).batch_size == 2
    assert several.share_batch(plan(batch_size=9), 2).batch_size == 5
    assert several.share_batch(plan(batch_size=2), 1).batch_size == 2


def test_processes_on_a_cpu_are_as_many_as_asked_for_and_auto_is_one(pipeline: Callable) -> None:
    assert several.devices_of(pipeline()) == 1
    assert several.devices_of(pipeline(devices=3)) == 3
    assert several.devices_of(pipeline(devices="auto")) == 1


@pytest.mark.parametrize(
    ("device", "devices", "sentence"),
    [
        ("cuda", 4, "4 devices are asked for, 2 GPUs are there"),
        ("cuda:1", 2, "compute.device is cuda:1, one GPU"),
    ],
)
def test_gpus_that_are_not_there_are_named(
    pipeline: Callable, monkeypatch: pytest.MonkeyPatch, device: str, devices: int, sentence: str
) -> None:
    monkeypatch.setattr("medseg.core.machine.choose_device", lambda wish: SimpleNamespace(name=wish))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UserError, match=sentence):
        several.devices_of(pipeline(device=device, devices=devices))
    assert several.devices_of(pipeline(device="cuda", devices="auto")) == 2
    assert several.devices_of(pipeline(device="cuda:1", devices="auto")) == 1


def test_torchrun_with_the_whole_road_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes were started") as caught:
        several.require_alone()
    assert "torchrun .. -m medseg.train.worker RUN" in caught.value.hint


def test_each_process_is_told_its_rank_and_its_share_of_the_cores_also_inside_a_slurm_job(
    tmp_path: Path, pipeline: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    given: list[dict[str, str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, env, **_: given.append(env))
    monkeypatch.setattr(several, "free_port", lambda: 4711)
    several.start(tmp_path / "job.json", 2, pipeline(cores=4))
    assert [env["RANK"] for env in given] == ["0", "1"]
    assert {(env["WORLD_SIZE"], env["LOCAL_WORLD_SIZE"], env["OMP_NUM_THREADS"]) for env in given} == {
        ("2", "2", "2")
    }
    for name, value in {**given[1], "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"}.items():
        monkeypatch.setenv(name, value)
    assert SLURMEnvironment.detect()
    assert TorchElasticEnvironment.detect(), "looked for first"
    assert (TorchElasticEnvironment().global_rank(), TorchElasticEnvironment().world_size()) == (1, 2)


def test_what_a_process_left_is_taken_once_and_only_by_the_same_settings(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    several.leave(folder, "key", Result("train", "done in a second", 5, details={"model": "abc"}))
    assert several.left_by_others(folder, "other settings") is None
    taken = several.left_by_others(folder, "key")
    assert taken is not None
    assert (taken.line, taken.done, taken.details) == ("done in a second", 5, {"model": "abc"})
    assert several.left_by_others(folder, "key") is None
    assert not (tmp_path / several.PLACE).exists()


def test_a_job_file_brings_settings_and_folder_over(tmp_path: Path, pipeline: Callable) -> None:
    member = RunFolder(tmp_path).system("u-net").fold("fold-1")
    path = tmp_path / "job.json"
    path.write_text(json.dumps({**several.job_of(pipeline(seed=4), member), "key": "k"}))
    again, folder, key = several.read_job(path)
    assert (again, key) == (pipeline(seed=4), "k")
    assert (folder.path, folder.cases, folder.root.path) == (member.path, member.cases, tmp_path)


def test_a_run_of_several_systems_is_no_single_training(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text("name: x\nsystem: [u-net, v-net]\n")
    with pytest.raises(UserError, match="one after the other"):
        several.read_job(tmp_path)
