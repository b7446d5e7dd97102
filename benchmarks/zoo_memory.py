"""What one training step of a system holds in memory: forward and backward, batch 1, at 96^3 voxels or 360 x 480 pixels.

python benchmarks/zoo_memory.py [--systems a,b] [--dims 2,3] [--sizes small,paper] [--limit "6 GB"]
                                [--measure] [--out docs/zoo/memory.json] [--again] [--table]

Counted: the step is walked through without computing (meta device), and every tensor that lives is added up: weights,
gradients, activations, plus what a process with torch holds anyhow. With --measure the step is also taken, in a process
of its own that may not have more than --limit; peak resident memory is what the system says. What is there for the same
code is not done again. Writes the page beside OUT, memory.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from medseg.bench.sources import digest_of
from medseg.core.atomic import read_json, write_json, write_text
from medseg.core.errors import UserError
from medseg.core.machine import parse_bytes, peak_ram_bytes
from medseg.plan.cost import PROCESS_BYTES
from medseg.zoo.build import build, find
from medseg.zoo.card import Card
from medseg.zoo.catalog import CATALOG
from medseg.zoo.effort import fitting
from medseg.zoo.outputs import Outputs

PLACE = {2: (360, 480), 3: (96, 96, 96)}
CHANNELS = {2: 3, 3: 1}
CLASSES = 3
Facts = dict[str, Any]


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that are alive; `peak` is the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: dict[int, Any] = {}

    def hold(self, tensor: Tensor) -> None:
        """Counts a tensor's storage until it is freed; views count once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.seen:
            return
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        self.seen[key] = weakref.finalize(storage, self.free, key, size)

    def free(self, key: int, size: int) -> None:
        self.now -= size
        self.seen.pop(key, None)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.hold(tensor)
        return out


def one_step(card: Card, dims: int, size: str, device: str) -> tuple[Any, Any]:
    """A network on a device and the step that is to be taken with it."""
    channels = CHANNELS[dims] + bool(card.needs)
    with torch.device(device):
        net = build(card.name, dims=dims, in_channels=channels, classes=CLASSES, size=size)
    net.train()
    shape = (1, channels, *fitting(PLACE[dims], net))

    def step() -> None:
        outputs = net(torch.zeros(shape, device=device))
        if not isinstance(outputs, Outputs):
            outputs = Outputs(outputs)
        extras = [e for e in outputs.extras.values() if isinstance(e, Tensor) and e.requires_grad]
        sum(o.float().square().mean() for o in (outputs.main, *outputs.auxiliary, *extras)).backward()

    return net, step


def counted(card: Card, dims: int, size: str) -> int:
    """Bytes of a step, added up without computing. Raises where a shape depends on the image."""
    try:
        return walked(card, dims, size, "meta")
    except (RuntimeError, NotImplementedError):
        # A constant on the CPU, or a layer that asks for the CPU's precision: tensors that only say they are there.
        with FakeTensorMode():
            return walked(card, dims, size, "cpu")


def walked(card: Card, dims: int, size: str, device: str) -> int:
    """Bytes of a step on a device that computes nothing."""
    net, step = one_step(card, dims, size, device)
    live = LiveBytes()
    for tensor in (*net.parameters(), *net.buffers()):
        live.hold(tensor)
    with live:
        step()
    return live.peak + PROCESS_BYTES


def taken(card: Card, dims: int, size: str, limit: int) -> Facts:
    """Takes the step here and now, with at most `limit` bytes beside what is mapped already."""
    torch.set_num_threads(1)
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + limit, mapped + limit))
    begun = time.process_time()
    _, step = one_step(card, dims, size, "cpu")
    step()
    return {"peak_bytes": peak_ram_bytes(), "seconds": round(time.process_time() - begun, 1)}


def measured(card: Card, dims: int, size: str, limit: int) -> Facts:
    """The same in a process of its own; one that asks for more than the limit is `over`."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        __file__,
        "--one",
        card.name,
        "--dims",
        str(dims),
        "--sizes",
        size,
    ]
    done = subprocess.run([*command, "--limit", str(limit)], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
    return {"over": last[:160]}


# --- the file and the page ----------------------------------------------------------------------------------------


def wanted(systems: str | None, dims: Sequence[int], sizes: Sequence[str]) -> list[tuple[Card, int, str]]:
    named = [find(n) for n in systems.split(",")] if systems else list(CATALOG)
    return [
        (card, d, size)
        for card in named
        if card.kind == "network"
        for d in dims
        if d in card.dims
        for size in sizes
        if size in card.sizes
    ]


def entry_of(card: Card, dims: int, size: str, held: Mapping[str, Any], limit: int, measure: bool) -> Facts:
    """The entry of a form, with what it lacks added."""
    key = f"{digest_of(card)[:16]} {json.dumps(card.sizes[size], default=str)}"
    entry = dict(held) if held.get("key") == key else {"key": key}
    if not {"counted_bytes", "not_counted"} & set(entry):
        try:
            entry["counted_bytes"] = counted(card, dims, size)
        except (RuntimeError, NotImplementedError, UserError, ValueError) as err:
            entry["not_counted"] = str(err).splitlines()[0][:120]
    if measure and not {"peak_bytes", "over"} & set(entry):
        entry |= measured(card, dims, size, limit)
    return entry


def page(entries: Mapping[str, Mapping[str, Any]], limit: int) -> str:
    """The table, the largest first."""
    lines = [
        "# What a training step of each system holds",
        "",
        "Written by `python benchmarks/zoo_memory.py`: forward and backward, batch 1, three classes, 96 x 96 x 96 voxels "
        "of one channel or 360 x 480 pixels of three (rounded up to what the network takes), float32, without the "
        "optimiser's moments (twice the weights for Adam). Counted: weights, gradients and all tensors alive at the worst "
        f"moment, and {PROCESS_BYTES / 1e6:.0f} MB for the process. Measured: peak resident memory of a process that took the "
        f"step on one thread of a CPU. Over {limit / 1e9:g} GB in bold.",
        "",
        "| system | form | size | counted GB | measured GB |",
        "|---|---|---|---|---|",
    ]
    order = sorted(entries.items(), key=lambda item: -_largest(item[1], limit))
    for name, entry in order:
        system, form, size = name.split()
        lines.append(
            f"| `{system}` | {form} | {size} | {_cell(entry.get('counted_bytes'), limit)} | {_took(entry, limit)} |"
        )
    return "\n".join(lines) + "\n"


def _largest(entry: Mapping[str, Any], limit: int) -> int:
    return max(entry.get("counted_bytes", 0), entry.get("peak_bytes", 0), limit + 1 if "over" in entry else 0)


def _cell(count: int | None, limit: int) -> str:
    if count is None:
        return "depends on the image"
    text = f"{count / 1e9:.2f}"
    return f"**{text}**" if count > limit else text


def _took(entry: Mapping[str, Any], limit: int) -> str:
    if "over" in entry:
        return "**over**"
    return _cell(entry["peak_bytes"], limit) if "peak_bytes" in entry else ""


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--systems", help="names, separated by commas; default: every network")
    asked.add_argument("--dims", default="2,3")
    asked.add_argument("--sizes", default="small,paper")
    asked.add_argument("--limit", type=parse_bytes, default=6_000_000_000)
    asked.add_argument("--measure", action="store_true")
    asked.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "zoo" / "memory.json")
    asked.add_argument("--again", action="store_true")
    asked.add_argument("--table", action="store_true", help="only write the page")
    asked.add_argument("--one", help=argparse.SUPPRESS)
    given = asked.parse_args()
    dims = [int(d) for d in given.dims.split(",")]
    if given.one:
        print(json.dumps(taken(find(given.one), dims[0], given.sizes, given.limit)))
        return 0
    entries: dict[str, Facts] = dict(read_json(given.out)) if given.out.is_file() else {}
    for card, d, size in [] if given.table else wanted(given.systems, dims, given.sizes.split(",")):
        name = f"{card.name} {d}D {size}"
        held = {} if given.again else entries.get(name, {})
        entries[name] = entry_of(card, d, size, held, given.limit, given.measure)
        if entries[name] != held:
            write_json(given.out, entries)
            print(name, {k: v for k, v in entries[name].items() if k != "key"}, flush=True)
    write_text(given.out.with_suffix(".md"), page(entries, given.limit))
    return 0


if __name__ == "__main__":
    sys.exit(main())
