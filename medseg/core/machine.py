"""What this process may use: cores, memory (cgroup-aware), accelerator; and what it has used."""

from __future__ import annotations

import os
import re
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from medseg.core.errors import UserError

GIB = 2**30


def cores() -> int:
    """CPU cores this process may use: affinity and cgroup quota, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _cgroup_cores()
    return max(1, min(allowed, quota) if quota else allowed)


def _cgroup_cores() -> int | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, round(int(quota) / int(period)))


def ram_limit_bytes() -> int:
    """Memory this process may use: the machine's, or less where a cgroup says so."""
    import psutil

    limits = [int(psutil.virtual_memory().total)]
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(name).read_text()))
        except (OSError, ValueError):
            continue
    return min(limits)


def ram_available_bytes() -> int:
    """Memory that is free now, within the limit."""
    import psutil

    return min(int(psutil.virtual_memory().available), ram_limit_bytes())


def parse_bytes(text: str | int | float) -> int:
    """`6 GB`, `800MB`, `2.5GiB` or a number of bytes -> bytes. GB means 10^9, GiB 2^30."""
    if isinstance(text, int | float):
        return int(text)
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kKmMgGtT]?)(i?)[bB]?\s*", text)
    if not match:
        raise UserError(f"'{text}' is no amount of memory", hint="write it like 6 GB or 800 MB")
    power = " kmgt".index(match[2].lower() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def peak_ram_bytes() -> int:
    """The largest resident memory this process and its finished children ever had (the larger of the two)."""
    scale = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return int(max(own, children) * scale)


@dataclass
class MemoryTrace:
    """Peak and mean resident memory over a stretch of work."""

    peak_bytes: int = 0
    total_bytes: float = 0.0
    samples: int = 0

    @property
    def mean_bytes(self) -> int:
        return int(self.total_bytes / max(1, self.samples))


@contextmanager
def watch_memory(every_seconds: float = 0.2) -> Iterator[MemoryTrace]:
    """Samples the process tree's resident memory while the block runs."""
    import psutil

    trace, stop, me = MemoryTrace(), threading.Event(), psutil.Process()

    def sample() -> None:
        used = me.memory_info().rss
        for child in me.children(recursive=True):
            try:
                used += child.memory_info().rss
            except psutil.Error:
                continue  # it ended between the listing and the look
        trace.peak_bytes = max(trace.peak_bytes, used)
        trace.total_bytes += used
        trace.samples += 1

    def loop() -> None:
        while not stop.wait(every_seconds):
            sample()

    sample()
    watcher = threading.Thread(target=loop, daemon=True, name="medseg-memory")
    watcher.start()
    try:
        yield trace
    finally:
        stop.set()
        watcher.join()
        sample()


@dataclass(frozen=True)
class Device:
    """Where networks run, and the sentence that says why."""

    name: str
    reason: str
    memory_bytes: int | None = None


def choose_device(wish: str = "auto") -> Device:
    """Tries the machine with one tiny convolution: the GPU is used, or the sentence says why not.

    wish: auto, cpu, cuda, cuda:N or mps. Raises UserError when a named device does not work.
    """
    import torch

    if wish == "cpu":
        return Device("cpu", f"CPU with {cores()} cores, as asked")
    candidates = (
        [wish]
        if wish != "auto"
        else [
            n
            for n, ok in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
            if ok
        ]
    )
    for name in candidates:
        trouble = _try_device(name)
        if trouble is None:
            memory = torch.cuda.get_device_properties(name).total_memory if name.startswith("cuda") else None
            label = torch.cuda.get_device_name(name) if name.startswith("cuda") else name
            return Device(name, f"{label} works", memory)
        if wish != "auto":
            raise UserError(
                f"compute.device {wish} does not work: {trouble}", hint="use compute.device: auto or cpu"
            )
        return Device("cpu", f"CPU with {cores()} cores; {name} was tried and failed: {trouble}")
    return Device(
        "cpu", f"CPU with {cores()} cores; no GPU that this PyTorch build ({torch.__version__}) can use"
    )


def _try_device(name: str) -> str | None:
    import torch

    try:
        out = torch.nn.functional.conv3d(
            torch.ones(1, 1, 4, 4, 4, device=name), torch.ones(1, 1, 3, 3, 3, device=name)
        )
        return None if float(out.sum()) == 27 * 8 else "a test convolution gave a wrong result"
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        return str(err).splitlines()[0]
