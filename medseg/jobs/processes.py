"""Workers that are processes of this computer, behind `concurrent.futures.Executor`.

One thread of the caller owns one process, so that a process that dies takes one task with it and no other: the task is
done once more by a new process, and after that its future says what killed it.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import medseg
from medseg.core.errors import Interrupted, UserError

TRIES = 2
"""How often a task is begun before it is taken for what kills the workers."""


class _Process:
    """One worker."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        package = str(Path(medseg.__file__).parents[1])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "medseg.jobs.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
        )

    def ask(self, question: bytes) -> dict[str, Any] | None:
        """The answer; None when the process has died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(question)
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except (BrokenPipeError, ValueError):
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    def end(self) -> int:
        """Kills it; the exit code, negative for a signal."""
        self.process.kill()
        code = self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        return code


class Processes(Executor):
    """`count` processes that call functions of medseg by name, with arguments and results that JSON can hold."""

    def __init__(self, count: int, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(environment or {})
        self._threads = ThreadPoolExecutor(count, "medseg-worker")
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all: set[_Process] = set()
        self._ended = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Calls a function of a module of medseg in one of the processes; keyword arguments are not sent."""
        assert not kwargs, "arguments are sent by position"
        call = f"{fn.__module__}:{fn.__qualname__}"
        question = json.dumps({"call": call, "arguments": list(args)}).encode() + b"\n"
        return self._threads.submit(self._do, question)

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes that run now."""
        return [one.process.pid for one in list(self._all)]

    def _do(self, question: bytes) -> Any:
        code = 0
        for _ in range(TRIES):
            if self._ended:
                raise Interrupted("the workers were stopped")
            worker = self._borrow()
            answer = worker.ask(question)
            if answer is not None:
                self._idle.put(worker)
                if "error" in answer:
                    raise UserError(**answer["error"])
                return answer["value"]
            code = worker.end()
            self._all.discard(worker)
        raise died(code)

    def _borrow(self) -> _Process:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            worker = _Process(self._environment)
            self._all.add(worker)
            return worker

    def __exit__(self, kind: Any, *_: Any) -> None:
        # After an error nobody waits for what is still being done; it is begun again another time.
        self.shutdown(wait=kind is None, cancel_futures=kind is not None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the processes: after their tasks, or at once."""
        if wait:
            self._threads.shutdown(cancel_futures=cancel_futures)
        self._ended = True
        for worker in list(self._all):
            worker.end() if wait else worker.process.kill()
        self._threads.shutdown(cancel_futures=True)
        self._all.clear()


def died(code: int) -> UserError:
    """The sentence for a task that ended its worker every time."""
    try:
        why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except ValueError:
        why = f"exit code {code}"
    return UserError(
        f"the worker that did it died {TRIES} times ({why})",
        hint="where memory is short the system kills: fewer workers (compute.cluster.workers), or a smaller compute.ram",
    )
