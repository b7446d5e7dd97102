"""Processes that measure one entry each, and end with their coordinator."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.core.atomic import read_json, write_json
from medseg.core.errors import Interrupted
from medseg.core.progress import say


class Children:
    """The processes at work."""

    def __init__(self) -> None:
        self.alive: set[subprocess.Popen] = set()
        self.lock = threading.Lock()
        self.stopped = False

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen:
        """Starts a process, unless the benchmark was asked to stop."""
        with self.lock:
            if self.stopped:
                raise Interrupted("the benchmark was asked to stop")
            child = subprocess.Popen(command, **options)
            self.alive.add(child)
        return child

    def forget(self, child: subprocess.Popen) -> None:
        """A process that has ended."""
        with self.lock:
            self.alive.discard(child)

    def end(self) -> None:
        """Ends all of them, and starts no more."""
        with self.lock:
            self.stopped = True
            for child in self.alive:
                child.kill()

    @contextmanager
    def ended_with_us(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the children first; nobody waits two minutes for a training to notice."""

        def stop(number: int, _: object) -> None:
            self.end()
            say("bench    stopped; the same command goes on with what is missing")
            raise Interrupted(signal.Signals(number).name)

        main = threading.current_thread() is threading.main_thread()
        before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)} if main else {}
        try:
            yield
        finally:
            self.end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def finish(self, command: Sequence[str], log: Path, threads: int, seconds: float) -> int | None:
        """Runs a command to its end, what it prints in `log`; its exit code, None where it took longer than `seconds`.

        Raises Interrupted where the benchmark was asked to stop meanwhile.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as out:
            child = self.start(command, stdout=out, stderr=subprocess.STDOUT, env=environment(threads))
            try:
                code: int | None = child.wait(seconds)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                code = None
            finally:
                self.forget(child)
        if self.stopped:
            raise Interrupted("the benchmark was asked to stop")
        return code

    def ask(
        self, module: str, job: Mapping[str, Any], folder: Path, log: Path, threads: int, seconds: float
    ) -> tuple[dict[str, Any] | None, int | None]:
        """Runs `python -m MODULE JOB.json RESULT.json` in a folder that exists meanwhile: what it wrote, None for
        nothing, and its exit code as `finish` has it.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        given, result = folder / "job.json", folder / "result.json"
        write_json(given, dict(job))
        command = [sys.executable, "-m", module, str(given), str(result)]
        code = self.finish(command, log, threads, seconds)
        found = dict(read_json(result)) if result.is_file() else None
        shutil.rmtree(folder, ignore_errors=True)
        return found, code


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}: memory may not have sufficed" if name == "SIGKILL" else name


def environment(threads: int) -> dict[str, str]:
    """The environment of a process with so many threads, which finds this medseg."""
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH", "")) if part)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads)), "PYTHONPATH": path}
