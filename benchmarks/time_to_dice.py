"""Dice on whole held-out volumes against wall-clock time: nnU-Net's own trainer, ours, and the controls between them.

    python benchmarks/time_to_dice.py --data FOLDER --side ours --fold 0 --minutes 15 --threads 2
    python benchmarks/time_to_dice.py --data FOLDER --side nnunet --fold 0 --minutes 20 --nnunet-python PYTHON
    python benchmarks/time_to_dice.py --data FOLDER --side controls --fold 0 --minutes 20
    python benchmarks/time_to_dice.py --data FOLDER --side ours --variant no-ema --set train.ema=null
    python benchmarks/time_to_dice.py --table

FOLDER is the hippocampus set of the Decathlon with its splits.csv. Each side's schedule is set for the same budget.
`nnunet` trains with nnunetv2 (2.8) in the Python that is named (`time_to_dice_nnunet.py`). `controls` are three runs of
nnU-Net's recipe and network in medseg's loop, which differ from it and from `ours` by one thing at a time: fp32 and the
planned batch of 9, fp32 and a batch of 2, bf16 and a batch of 2. A variant of `ours` says what a part of it gives.

Every run writes one JSON file under --out with its curve: seconds of training, steps, Dice of each class. Points of the
curve are looks at up to 8 held-out cases; the last figure is of all of them. Our seconds include the looks, the peer's
do not. A run whose file is there is not done again; an interrupted one goes on with the same command. `--table` writes
the section of docs/benchmarks.md from the files that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "time_to_dice"
CONTROLS = {
    "fp32-batch9": ("fp32", 9),
    "fp32-batch2": ("fp32", 2),
    "bf16-batch2": ("bf16", 2),
}
"""Controls: number type and patches a step."""

SIDES = ("ours", "nnunet", *CONTROLS)


@dataclass(frozen=True)
class Entry:
    """One run of the comparison; its name is that of its file."""

    side: str
    fold: int
    minutes: float
    seed: int
    threads: int
    variant: str = ""
    changes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        own = f"-{self.variant}" if self.variant else ""
        return f"{self.side}{own}-fold{self.fold}-{self.minutes:g}min-seed{self.seed}"

    @property
    def overrides(self) -> list[str]:
        """What differs from the side's pipeline file."""
        own = [f"data.split.fold={self.fold}", f"train.minutes={self.minutes}", "train.steps=null"]
        own += [f"compute.seed={self.seed}", f"compute.cores={self.threads}", "compute.device=cpu"]
        if self.side in CONTROLS:
            number, batch = CONTROLS[self.side]
            own += [f"train.precision={number}", f"train.batch_size={batch}"]
        return [*own, "track.enabled=false", *self.changes]

    @property
    def pipeline(self) -> Path:
        kind = "nnunet" if self.side in CONTROLS else "fast"
        return ROOT / "configs" / "bench" / f"hippocampus_{kind}.yaml"


def measure_ours(entry: Entry, data: Path, work: Path) -> dict[str, Any]:
    """One run along medseg's own road, check to score, in a folder that the same call continues."""
    from medseg.core.run import RunFolder
    from medseg.pipeline import ROAD, load_pipeline, run

    pipeline = load_pipeline(
        entry.pipeline, entry.overrides, {"data": {"root": str(data.resolve()), "phantom": None}}
    )
    folder = RunFolder(work / entry.name)
    run(pipeline, folder.path, steps=ROAD[: ROAD.index("score") + 1])
    return facts_of_run(folder)


def facts_of_run(folder: Any) -> dict[str, Any]:
    """What a run folder of medseg says of its training."""
    from medseg.core.atomic import read_json

    model, scores = read_json(folder.model / "model.json"), read_json(folder.scores_json)
    training = model["training"]
    lines = [json.loads(line) for line in folder.history.read_text().splitlines()]
    seconds, steps = training["training_seconds"], training["steps"]
    return {
        "seconds": seconds,
        "steps": steps,
        "seconds_per_step": round(seconds / steps, 3),
        "precision": training["precision"],
        "dice": {name: round(row["dice"], 4) for name, row in scores["per_class"].items()},
        "cases": min(row["n"] for row in scores["per_class"].values()),
        "curve": [
            {"seconds": line["seconds"], "step": line["step"], "dice": line["val_dice_of_class"]}
            for line in lines
            if line.get("val_dice_of_class")
        ],
    }


def measure_peer(entry: Entry, data: Path, work: Path, python: Path) -> dict[str, Any]:
    """nnU-Net's trainer in the Python that has it; its last line is one JSON object."""
    script = Path(__file__).with_name("time_to_dice_nnunet.py")
    command = [str(python), str(script), str(work / "nnunet"), str(data), "--fold", str(entry.fold)]
    command += ["--minutes", str(entry.minutes), "--seed", str(entry.seed), "--threads", str(entry.threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return facts


def machine() -> dict[str, Any]:
    """Where it was measured, and with which versions."""
    from importlib.metadata import PackageNotFoundError, version

    from medseg import __version__

    found = {"python": sys.version.split()[0], "medseg": __version__}
    for name in ("torch", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "cpu": cpu,
        "bf16": [f for f in ("avx512_bf16", "amx_bf16") if f in flags],
        "cores": os.cpu_count(),
        "versions": found,
    }


def take(entry: Entry, options: argparse.Namespace) -> dict[str, Any]:
    """Measures an entry and writes its file, unless it is there already."""
    from medseg.core.atomic import read_json, write_json

    path = options.out / f"{entry.name}.json"
    if path.exists() and not options.again:
        print(f"{entry.name}: there already, not done again")
        return dict(read_json(path))
    before = cpu_seconds()
    if entry.side == "nnunet":
        facts = measure_peer(entry, options.data, options.work, options.nnunet_python)
    else:
        facts = measure_ours(entry, options.data, options.work)
    # Less than seconds x threads: other programs had the cores meanwhile, or the run was interrupted before.
    facts = {
        **vars(entry),
        "changes": list(entry.changes),
        **facts,
        "cpu_seconds": round(cpu_seconds() - before, 1),
        "machine": machine(),
    }
    write_json(path, facts)
    print(f"{entry.name}: {facts['steps']} steps, Dice {in_words(facts['dice'])}")
    return facts


def cpu_seconds() -> float:
    """Of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def in_words(dice: dict[str, float]) -> str:
    return " / ".join(f"{value:.3f}" for value in dice.values())


def entries_of(options: argparse.Namespace) -> list[Entry]:
    """The runs that a command asks for."""
    sides: Sequence[str] = tuple(CONTROLS) if options.side == "controls" else (options.side,)
    folds = range(5) if options.fold == "all" else [int(options.fold)]
    shared = options.minutes, options.seed, options.threads, options.variant, tuple(options.changes)
    return [Entry(side, fold, *shared) for fold in folds for side in sides]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of the hippocampus set")
    parser.add_argument("--side", choices=[*SIDES, "controls"], default="ours")
    parser.add_argument("--fold", default="0", choices=["0", "1", "2", "3", "4", "all"])
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--variant", default="", help="name of a run of ours with other settings, by --set")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--nnunet-python", type=Path, help="a Python with nnunetv2")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--work", type=Path, default=Path("runs/time-to-dice"), help="run folders")
    parser.add_argument("--again", action="store_true", help="measure also what is there already")
    parser.add_argument("--table", action="store_true", help="write the section of docs/benchmarks.md")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args(arguments)
    if options.table:
        from time_to_dice_table import write_section

        print(f"wrote {write_section(options.out, options.page)}")
        return
    if options.data is None or not (options.data / "splits.csv").is_file():
        parser.error("--data FOLDER: the folder that holds the set and its splits.csv")
    if options.side == "nnunet" and options.nnunet_python is None:
        parser.error("--side nnunet needs --nnunet-python PYTHON, one with nnunetv2 2.8")
    if bool(options.changes) != bool(options.variant) or (options.variant and options.side != "ours"):
        parser.error("--variant NAME and --set KEY=VALUE belong together, with --side ours")
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    for entry in entries_of(options):
        take(entry, options)


if __name__ == "__main__":
    main()
