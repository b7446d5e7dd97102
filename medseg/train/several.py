"""One training on several devices: a process each, started from here, or by torchrun or a cluster beforehand.

`compute.devices: 2` starts two processes of `medseg.train.worker` for this step and waits for them. They read the same
run folder, share each batch, and the first one writes the model. A process that dies ends the others at once, and is
named with its number and signal; SIGTERM and Ctrl-C are handed on, so that a checkpoint is written.

On several machines `torchrun .. -m medseg.train.worker RUN` does the training; the next `medseg run .. --out RUN` finds
what it left and goes on with the prediction.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.config import Pipeline, Plan
from medseg.core.atomic import read_json, write_json
from medseg.core.errors import Interrupted, UserError
from medseg.core.progress import say
from medseg.core.run import Result, RunFolder

PLACE = "several"
"""Folder in the run folder: job.json (settings for the processes), done.json or error.json (what they came to)."""

STOPPED = 75
"""Exit code of a process that was asked to stop and has written its checkpoint."""

GRACE_SECONDS = 60
"""So long may a process take to write its checkpoint after SIGTERM."""


def started_together() -> int:
    """How many processes share this training; 1 where nobody started more."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def on_this_machine() -> int:
    """How many of them run on this computer, and share its cores and memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process writes the model: it has rank 0, or is alone."""
    return int(os.environ.get("RANK", "0")) == 0


def require_alone() -> None:
    """Raises UserError where torchrun started `medseg` itself: all processes would write the same files."""
    if started_together() > 1:
        raise UserError(
            f"{started_together()} processes were started to walk the same road",
            "torchrun",
            "prepare with `medseg run PIPELINE --out RUN --until ingest`, then `torchrun .. -m medseg.train.worker RUN`",
        )


def share_batch(plan: Plan, processes: int) -> Plan:
    """The plan of one of several processes: they share the batch; a rest is rounded up, so that all have equal parts."""
    return plan.model_copy(update={"batch_size": -(-plan.batch_size // processes)})


def devices_of(pipeline: Pipeline) -> int:
    """How many processes `compute.devices` asks for. Raises UserError when there are fewer GPUs."""
    from medseg.core.machine import choose_device

    wish = pipeline.compute.devices
    if wish == 1:
        return 1
    device = choose_device(pipeline.compute.device).name
    if not device.startswith("cuda"):
        return 1 if wish == "auto" else wish
    import torch

    there = torch.cuda.device_count()
    if ":" in device and wish != "auto":
        raise UserError(
            f"compute.device is {device}, one GPU, but compute.devices asks for {wish}",
            "compute.device, compute.devices",
            "set compute.device: cuda, or compute.devices: 1",
        )
    if wish != "auto" and wish > there:
        raise UserError(
            f"{wish} devices are asked for, {there} GPUs are there", "compute.devices", f"at most {there}"
        )
    if wish == "auto":
        return 1 if ":" in device else max(1, there)
    return wish


def train_on_several(pipeline: Pipeline, folder: RunFolder, processes: int, key: str) -> Result:
    """Starts the processes, waits for them, and returns what the first one came to.

    Raises UserError with the sentence of the process that failed, or the number and signal of one that died.
    """
    place = folder.path / PLACE
    for name in ("done.json", "error.json"):
        (place / name).unlink(missing_ok=True)
    write_json(place / "job.json", {**job_of(pipeline, folder), "key": key})
    say(f"train    {processes} processes share each batch")
    watch(start(place / "job.json", processes, pipeline), place)
    found = left_by_others(folder, key)
    if found is None:
        raise UserError(
            "the processes ended without a model", str(place.name), "start it again with --resume"
        )
    return found


def left_by_others(folder: RunFolder, key: str) -> Result | None:
    """The result of processes that trained this model, taken once; None when there is none of the same settings."""
    path = folder.path / PLACE / "done.json"
    if not path.is_file():
        return None
    facts = read_json(path)
    if facts.get("key") != key:
        return None
    shutil.rmtree(path.parent)
    return Result(**facts["result"])


def leave(folder: RunFolder, key: str, result: Result) -> None:
    """Writes the result where `left_by_others` looks for it."""
    facts = {"step": result.step, "line": result.line, "done": result.done, "details": result.details}
    write_json(folder.path / PLACE / "done.json", {"key": key, "result": facts})


def key_of(pipeline: Pipeline, folder: RunFolder, inputs: str) -> str:
    """Equal key, same training: settings, plan and cases."""
    facts = [repr(pipeline.system), repr(pipeline.train), inputs]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder.plan, folder.cases)]
    return hashlib.sha256("\n".join([*facts, *digests]).encode()).hexdigest()


def job_of(pipeline: Pipeline, folder: RunFolder) -> dict[str, Any]:
    """Settings and folder as plain values."""
    chain: list[dict[str, str | None]] = []
    here: RunFolder | None = folder
    while here is not None:
        chain.insert(
            0,
            {
                "path": str(here.path.resolve()),
                "cases": str(here.own_cases.resolve()) if here.own_cases else None,
            },
        )
        here = here.parent
    return {"pipeline": pipeline.model_dump(mode="json"), "folders": chain}


def read_job(path: Path) -> tuple[Pipeline, RunFolder, str | None]:
    """Settings, folder and key of a job file, or of a run folder (whose key is not known yet)."""
    if path.is_dir():
        from medseg.config_file import load_pipeline

        pipeline = load_pipeline(path / "pipeline.yaml")
        if len(pipeline.systems) > 1 or pipeline.train.several:
            raise UserError(
                "several systems, folds or seeds are trained one after the other",
                str(path / "pipeline.yaml"),
                "set compute.devices and use `medseg run`",
            )
        return pipeline.for_system(pipeline.systems[0]), RunFolder(path), None
    facts = json.loads(path.read_text(encoding="utf-8"))
    folder: RunFolder | None = None
    for link in facts["folders"]:
        folder = RunFolder(Path(link["path"]), folder, Path(link["cases"]) if link["cases"] else None)
    assert folder is not None
    return Pipeline.model_validate(facts["pipeline"]), folder, facts["key"]


def start(job: Path, processes: int, pipeline: Pipeline) -> list[subprocess.Popen[bytes]]:
    """One process a device. In sessions of their own: a signal reaches them through their parent, once."""
    from medseg.core.machine import cores

    threads = max(1, (pipeline.compute.cores or cores()) // processes)
    shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "GROUP_WORLD_SIZE": 1, "GROUP_RANK": 0}
    # As torchrun marks its processes; without it a job of SLURM would count its own tasks instead of these.
    shared |= {"TORCHELASTIC_RUN_ID": "medseg"}
    shared |= {"MASTER_PORT": free_port(), "OMP_NUM_THREADS": threads}
    found = []
    for rank in range(processes):
        own = {**shared, "RANK": rank, "LOCAL_RANK": rank}
        environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", **{k: str(v) for k, v in own.items()}}
        root = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
        command = [sys.executable, "-m", "medseg.train.worker", str(job)]
        found.append(
            subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        )
    return found


def free_port() -> int:
    """A port of this computer that nobody uses; UserError where none may be opened."""
    import socket

    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])
    except OSError as err:
        raise UserError(
            f"no port can be opened for the processes to meet ({err})", "compute.devices", "set it to 1"
        ) from err


def watch(processes: Sequence[subprocess.Popen[bytes]], place: Path) -> None:
    """Waits until all have ended; ends the others when one fails, and hands on a request to stop."""
    from medseg.train.stopping import watch_for_stop

    failed: list[tuple[int, int]] = []
    with _ended(processes), watch_for_stop() as stop:
        asked = False
        while any(process.poll() is None for process in processes) and not failed:
            if stop and not asked:
                asked = True
                _signal(processes, signal.SIGTERM)
            time.sleep(0.2)
            failed = [(rank, p.returncode) for rank, p in enumerate(processes) if p.poll() and not asked]
    if asked or any(code == STOPPED for _, code in failed):
        raise Interrupted(f"training was asked to stop ({stop.reason or 'SIGTERM'})")
    if failed:
        _say_failure(place, failed)


@contextmanager
def _ended(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Whatever happens inside, no process is left behind."""
    try:
        yield
    finally:
        _signal(processes, signal.SIGTERM)
        limit = time.monotonic() + GRACE_SECONDS
        for process in processes:
            try:
                process.wait(max(0.1, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _signal(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _say_failure(place: Path, failed: Sequence[tuple[int, int]]) -> None:
    if (place / "error.json").is_file():
        raise UserError(**read_json(place / "error.json"))
    rank, code = failed[0]
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    raise UserError(
        f"process {rank} of the training {how}",
        "compute.devices",
        "its checkpoint is kept: --resume goes on; SIGKILL means mostly that memory did not suffice",
    )
