"""The section "Time to Dice" of docs/benchmarks.md, from the JSON files of time_to_dice.py."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HEAD = "## Time to Dice"
SIDES = {
    "ours": "medseg, `configs/recipes/fast.yaml`",
    "nnunet": "nnU-Net's trainer",
    "fp32-batch9": "nnU-Net's recipe in medseg's loop, fp32, batch 9",
    "fp32-batch2": "the same, fp32, batch 2",
    "bf16-batch2": "the same, bf16, batch 2",
}
FIRST_SEED = 17
WANTED = [
    *(("ours", fold, 15.0, 17) for fold in range(5)),
    *(("ours", 0, minutes, 17) for minutes in (5.0, 20.0, 60.0)),
    ("ours", 0, 15.0, 18),
    *(("nnunet", 0, minutes, 17) for minutes in (20.0, 60.0)),
    *((side, 0, 20.0, 17) for side in ("fp32-batch9", "fp32-batch2", "bf16-batch2")),
]
"""The runs that the comparison consists of: side, fold, minutes, seed."""

Entry = dict[str, Any]


def load_entries(folder: Path) -> list[Entry]:
    """All files of a folder, in the order of the table."""
    order = list(SIDES)
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return sorted(
        found,
        key=lambda e: (order.index(e["side"]), e["minutes"], e.get("variant", ""), e["seed"], e["fold"]),
    )


def write_section(folder: Path, page: Path) -> Path:
    """Puts the section into the page, in place of the one that is there; returns the page."""
    text = page.read_text(encoding="utf-8") if page.exists() else "# Benchmarks\n"
    before, _, rest = text.partition(f"{HEAD}\n")
    after = rest.partition("\n## ")[2] if rest else ""
    section = f"{HEAD}\n\n{section_text(load_entries(folder))}"
    tail = f"\n## {after}" if after else ""
    page.write_text(f"{before.rstrip()}\n\n{section}{tail}", encoding="utf-8")
    return page


def section_text(entries: Sequence[Entry]) -> str:
    """The section without its heading; says what has not been run."""
    parts = [
        "Hippocampus of the Decathlon, 200 cases, folds of its `splits.csv`: Dice anterior / posterior on all whole "
        "held-out volumes,\nafter so many minutes of training on 2 cores, each side's schedule set for that budget. "
        "Validation without mirroring.\n\n"
        "```\npython benchmarks/time_to_dice.py --data FOLDER --side ours --fold 0 --minutes 15 --threads 2\n"
        "python benchmarks/time_to_dice.py --table\n```\n"
    ]
    whole, varied = entries, [e for e in entries if e.get("variant")]
    entries = [e for e in entries if not e.get("variant")]
    if whole:
        parts += [machines(whole), budgets(entries)]
        parts += [text for text in (folds(whole), variants(entries, varied), curves(entries)) if text]
    missing = [name_of(*one) for one in WANTED if one not in {key_of(e) for e in entries}]
    if missing:
        parts.append(f"Not run: {', '.join(missing)}.\n")
    return "\n".join(parts)


def key_of(entry: Entry) -> tuple[str, int, float, int]:
    return entry["side"], int(entry["fold"]), float(entry["minutes"]), int(entry["seed"])


def name_of(side: str, fold: int, minutes: float, seed: int) -> str:
    """How a run is called in a sentence."""
    other = "" if seed == FIRST_SEED else f" seed {seed}"
    return f"{side} fold {fold} {minutes:g} min{other}"


def machines(entries: Sequence[Entry]) -> str:
    """Where the figures come from; more than one line where they come from several machines."""
    lines = []
    for entry in entries:
        at = entry["machine"]
        versions = {**at["versions"], **entry.get("peer_versions", {})}
        bf16 = f", bf16 by {' and '.join(at['bf16'])}" if at["bf16"] else ", no bf16"
        said = ", ".join(f"{name} {number}" for name, number in versions.items())
        lines.append(f"{SIDES[entry['side']]}: {at['cpu']} ({at['cores']} cores{bf16}), {said}.")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def budgets(entries: Sequence[Entry]) -> str:
    """Every run with its figures. Fewer CPU seconds than threads x seconds: other programs had the cores."""
    rows = ["| side | fold | minutes | seed | on | steps | s a step | CPU s | anterior / posterior |"]
    rows.append("|---|---|---|---|---|---|---|---|---|")
    for e in entries:
        rows.append(
            f"| {SIDES[e['side']]} | {e['fold']} | {e['minutes']:g} | {e['seed']} | {where(e)} | {e['steps']} "
            f"| {e['seconds_per_step']:.2f} | {e['cpu_seconds']:.0f} | {pair(e['dice'])} |"
        )
    return "\n".join(rows) + "\n"


def folds(entries: Sequence[Entry]) -> str:
    """Mean over folds and their standard deviation, for sides and budgets with more than one fold."""
    rows = [
        "| side | minutes | folds | mean anterior / posterior | standard deviation |",
        "|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, float, int], list[Entry]] = {}
    for e in entries:
        groups.setdefault((e["side"], e.get("variant", ""), e["minutes"], e["seed"]), []).append(e)
    for (side, variant, minutes, _), group in groups.items():
        if len(group) < 2:
            continue
        names = list(group[0]["dice"])
        values = {name: [e["dice"][name] for e in group] for name in names}
        mean = {name: statistics.mean(values[name]) for name in names}
        spread = {name: statistics.stdev(values[name]) for name in names}
        used = ", ".join(str(e["fold"]) for e in group)
        but = f", but {changed(group[0])}" if variant else ""
        rows.append(f"| {SIDES[side]}{but} | {minutes:g} | {used} | {pair(mean)} | {pair(spread)} |")
    return "\n".join(rows) + "\n" if len(rows) > 2 else ""


def variants(entries: Sequence[Entry], varied: Sequence[Entry]) -> str:
    """Ours with something changed, and by how much the Dice differs from ours of the same fold, minutes, seed and
    processor."""
    rows = ["| ours, but | fold | minutes | on | steps | anterior / posterior | difference |"]
    rows.append("|---|---|---|---|---|---|---|")
    own = {(key_of(e), where(e)): e["dice"] for e in entries if e["side"] == "ours"}
    for e in varied:
        base = own.get((key_of(e), where(e)))
        gap = "-" if base is None else " / ".join(f"{e['dice'][name] - base[name]:+.3f}" for name in base)
        rows.append(
            f"| {changed(e)} | {e['fold']} | {e['minutes']:g} | {where(e)} | {e['steps']} | {pair(e['dice'])} | {gap} |"
        )
    return "\n".join(rows) + "\n" if varied else ""


def curves(entries: Iterable[Entry]) -> str:
    """Dice over the training of fold 0, at the looks: up to 8 held-out cases."""
    shown = [e for e in entries if e["fold"] == 0 and e["seed"] == FIRST_SEED and e["curve"]]
    if not shown:
        return ""
    rows = ["Curves of fold 0 (looks at up to 8 held-out cases; seconds: Dice):\n"]
    for e in shown:
        points = ", ".join(f"{p['seconds']:.0f}: {pair(p['dice'])}" for p in e["curve"])
        rows.append(f"- {SIDES[e['side']]}, {e['minutes']:g} min: {points}")
    return "\n".join(rows) + "\n"


def changed(entry: Entry) -> str:
    """The settings of a variant that are its own."""
    return ", ".join(f"`{change}`" for change in entry["changes"])


def where(entry: Entry) -> str:
    """The processor and the number type that a run computed with."""
    return f"{entry['machine']['cpu'].replace('(R)', '').replace(' Processor', '')}, {entry['precision']}"


def pair(dice: dict[str, float]) -> str:
    return " / ".join(f"{value:.3f}" for value in dice.values())
