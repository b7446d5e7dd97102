"""Memory measured instead of estimated: training steps on random patches, in a process of their own.

The process takes a step on 1, 2 and 4 patches and measures its peak after each. Memory grows by the same amount with
each patch, so a line through the last two says how many fit; that number is then tried, and lowered until a step goes
through within the room. On a CPU the peak is that of the whole process (resident memory), on a GPU what torch took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medseg.config import Pipeline, Plan, System
from medseg.core.errors import UserError

FIRST = (1, 2, 4)
MOST = 64
"""More patches a step are not looked for: they would change how the network learns more than they save."""

SLOW_SECONDS = 60.0
"""A step that would take longer is not tried; what fits is then told by the line alone."""

SHARE = 0.9
"""Share of the device's memory a step may take: other programs and fragments need some."""


@dataclass(frozen=True)
class Step:
    """One dry step. peak_bytes: the most memory until its end; seconds: of this step."""

    batch: int
    peak_bytes: int
    seconds: float


@dataclass(frozen=True)
class Measured:
    """What was found. batch: the largest that fits room_bytes; tried: whether a step of that size went through."""

    steps: tuple[Step, ...]
    batch: int
    room_bytes: int
    tried: bool
    precision: str

    def as_json(self) -> dict[str, Any]:
        """Plain values, for --json and the run folder's measured.json."""
        return {
            "largest_batch": self.batch,
            "tried": self.tried,
            "room_bytes": self.room_bytes,
            "precision": self.precision,
            "steps": [vars(step) for step in self.steps],
        }


def measure(pipeline: Pipeline, plan: Plan, held_bytes: int = 0) -> Measured:
    """The largest batch of the plan's patches that the device takes. held_bytes: what training holds beside a step.

    Raises UserError when not even one patch fits, or the process fails for another reason.
    """
    from medseg.core.machine import choose_device, parse_bytes, ram_available_bytes

    device = choose_device(pipeline.compute.device)
    room = device.memory_bytes or (
        ram_available_bytes() if pipeline.compute.ram is None else parse_bytes(pipeline.compute.ram)
    )
    room = int(SHARE * room) - held_bytes
    wish = pipeline.train.precision
    precision = wish if wish != "auto" else ("bf16" if device.name.startswith("cuda") else "fp32")
    job = {
        "system": pipeline.only_system.model_dump(mode="json"),
        "plan": plan.model_dump(mode="json"),
        "device": device.name,
        "precision": precision,
        "cores": pipeline.compute.cores,
    }
    steps = list(_take(job, FIRST, room))
    if not steps or steps[0].peak_bytes > room:
        raise UserError(
            f"not even one patch of {'x'.join(map(str, plan.patch_size))} voxels fits {room / 1e9:.1f} GB",
            "train.patch_size",
            "take a smaller patch_size or system.size",
        )
    found = Measured(tuple(steps), steps[-1].batch, room, True, precision)
    return _try_larger(job, found) if len(steps) == len(FIRST) else found


def _try_larger(job: dict[str, Any], found: Measured) -> Measured:
    """Goes as far as the line through the last two steps says, and back until a step goes through."""
    batch = fitting(found.steps, found.room_bytes)
    while batch > FIRST[-1]:
        last = found.steps[-1]
        if last.seconds / last.batch * batch > SLOW_SECONDS:
            return replace(found, batch=batch, tried=False)
        tried = list(_take(job, (batch,), found.room_bytes))
        if tried and tried[0].peak_bytes <= found.room_bytes:
            return replace(found, steps=(*found.steps, tried[0]), batch=batch)
        batch = min(batch - 1, int(0.9 * batch))
    return found


def fitting(steps: Sequence[Step], room_bytes: int) -> int:
    """How many patches fit, by the line through the last two steps; at most 64."""
    before, last = steps[-2:]
    each = (last.peak_bytes - before.peak_bytes) / (last.batch - before.batch)
    if each <= 0:
        return MOST
    return max(last.batch, min(MOST, last.batch + int((room_bytes - last.peak_bytes) / each)))


def _take(job: dict[str, Any], batches: Sequence[int], room: int) -> list[Step]:
    """Steps of growing size in one process, until one does not fit; the process ends there."""
    said = json.dumps({**job, "batches": list(batches), "room_bytes": room})
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    done = subprocess.run(
        [sys.executable, "-m", "medseg.plan.dry_step"],
        input=said,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    steps = [Step(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]
    full = done.returncode < 0 or any(
        words in done.stderr.lower() for words in ("out of memory", "can't allocate")
    )
    if done.returncode and not full:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UserError(f"a dry step failed: {last[0]}", "medseg plan --measure", "train without it")
    return [step for step in steps if step.peak_bytes <= room]


# --- in the process of its own ------------------------------------------------------------------------------------


def take_steps(job: dict[str, Any]) -> None:
    """Prints one JSON line a step: batch, peak_bytes, seconds."""
    import time

    import torch

    from medseg.model.folder import build_system

    plan, device = Plan.model_validate(job["plan"]), job["device"]
    if job["cores"]:
        torch.set_num_threads(job["cores"])
    net = build_system(System.model_validate(job["system"]), plan).to(device).train()
    optimiser = torch.optim.AdamW(net.parameters(), fused=True)
    number = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[job["precision"]]
    _step(net, optimiser, plan, (job["batches"][0], device, number))  # kernels are chosen, moments made
    for batch in job["batches"]:
        start = time.monotonic()
        _step(net, optimiser, plan, (batch, device, number))
        seconds = time.monotonic() - start
        peak = peak_bytes(device)
        print(json.dumps({"batch": batch, "peak_bytes": peak, "seconds": round(seconds, 3)}), flush=True)
        if peak > job["room_bytes"]:
            return


def _step(net: Any, optimiser: Any, plan: Plan, how: tuple[int, str, Any]) -> None:
    """Forward, Dice and cross-entropy of every output, backward, optimiser."""
    import torch

    from medseg.losses.supervision import nearest_labels
    from medseg.losses.table import build_from_settings

    batch, device, number = how
    images = torch.randn(batch, plan.in_channels, *plan.patch_size, device=device)
    shape = (batch, plan.out_channels) if plan.overlapping else (batch,)
    targets = torch.randint(0, 2, (*shape, *plan.patch_size), device=device, dtype=torch.uint8)
    loss_of = build_from_settings("dice_ce", classes=plan.out_channels, regions=plan.overlapping)
    with torch.autocast(device.split(":")[0], number, enabled=number is not None):
        outputs = net(images)
    heads = [getattr(outputs, "main", outputs), *getattr(outputs, "auxiliary", ())]
    loss = sum(loss_of(head.float(), nearest_labels(targets, head.shape[2:])) for head in heads)
    loss.backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peak_bytes(device: str) -> int:
    """The most memory so far: what torch reserved on a GPU, the resident memory of this process on a CPU."""
    import torch

    from medseg.core.machine import peak_ram_bytes

    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_reserved(device))
    try:
        # Not getrusage: Linux hands the peak of the process that started this one down to it.
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return peak_ram_bytes()


def in_words(found: Measured, plan: Plan) -> str:
    """One line for people."""
    own = [step for step in found.steps if step.batch >= plan.batch_size] or [found.steps[-1]]
    step = own[0]
    how = "tried" if found.tried else "by the line through smaller ones; a step of it would take a minute"
    most = f"at least {found.batch}" if found.batch == MOST else str(found.batch)
    return (
        f"measured in {found.precision}: {step.batch} patches take {step.peak_bytes / 1e9:.2f} GB and {step.seconds:.2g} s "
        f"a step; {most} fit {found.room_bytes / 1e9:.1f} GB ({how}); the plan takes {plan.batch_size}"
    )


def main() -> None:
    """Reads a job from standard input."""
    take_steps(json.loads(sys.stdin.read()))


if __name__ == "__main__":
    main()
