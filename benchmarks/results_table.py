"""Prints a run's scores as a Markdown table: python benchmarks/results_table.py RUN [RUN ...].

Every number comes from RUN/scores.json and RUN/steps.json; nothing is typed by hand.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from medseg.core.atomic import read_json
from medseg.core.run import RunFolder

COLUMNS = (("dice", "Dice", 3), ("iou", "IoU", 3), ("hd95_mm", "HD95 mm", 2), ("hd95_px", "HD95 px", 1),
           ("nsd", "Surface Dice", 3), ("volume_error_percent", "Volume error %", 1))  # fmt: skip


def systems_of(run: RunFolder) -> list[tuple[str, RunFolder]]:
    """Name and folder of each system that was scored."""
    many = sorted((run.path / "systems").glob("*")) if (run.path / "systems").is_dir() else []
    folders = [(p.name, run.system(p.name)) for p in many] or [("", run)]
    named = []
    for _, folder in folders:
        facts = read_json(folder.model / "model.json")["system"]
        slug = facts["name"] if facts["size"] == "paper" else f"{facts['name']} ({facts['size']})"
        named.append((slug, folder))
    return [(n, f) for n, f in named if f.scores_json.exists()]


def cell(values: dict[str, Any], key: str, digits: int) -> str:
    if values.get(key) is None:
        return "–"
    interval = values.get("intervals", {}).get(key)
    spread = f" ({interval[0]:.{digits}f}–{interval[1]:.{digits}f})" if interval else ""
    return f"{values[key]:.{digits}f}{spread}"


def table(run: RunFolder) -> list[str]:
    systems = systems_of(run)
    scores = {name: read_json(folder.scores_json) for name, folder in systems}
    present = {k for s in scores.values() for v in s["per_class"].values() for k in v if v[k] is not None}
    columns = [c for c in COLUMNS if c[0] in present]
    if not columns:
        return [
            "Nothing was scored: no case has a reference.",
            "",
            *(cost(n, f, scores[n]) for n, f in systems),
        ]
    lines = ["| system | class | n | misses | " + " | ".join(t for _, t, _ in columns) + " |"]
    lines.append("|---|---|---|---|" + "---|" * len(columns))
    for name, found in scores.items():
        rows = [
            *found["per_class"].items(),
            ("mean", {**found["mean"], "intervals": found.get("intervals", {})}),
        ]
        for label, values in rows:
            shown = " | ".join(cell(values, key, digits) for key, _, digits in columns)
            lines.append(
                f"| {name} | {label} | {values.get('n', '')} | {values.get('misses', '')} | {shown} |"
            )
    return [*lines, "", *(cost(name, folder, scores[name]) for name, folder in systems)]


def cost(name: str, folder: RunFolder, scores: dict[str, Any]) -> str:
    steps = {**folder.root.steps_done(), **folder.steps_done()}
    shown = ", ".join(
        f"{s} {steps[s]['seconds']:.0f} s" for s in ("ingest", "train", "predict", "score") if s in steps
    )
    peak = max(f["peak_ram_bytes"] for f in steps.values()) / 1e9
    model = read_json(folder.model / "model.json")
    trained = model.get("training") or {}
    learnt = f", {trained['steps']} training steps in {trained['precision']}" if trained.get("steps") else ""
    reference = scores.get("reference", "label")
    against = "" if reference == "label" else f"; compared with {reference}: agreement, not truth"
    return f"{name}: {shown}, peak memory {peak:.2f} GB{learnt}{against}."


def main() -> int:
    if len(sys.argv) < 2:
        print(__doc__)
        return 2
    for argument in sys.argv[1:]:
        print("\n".join(table(RunFolder(Path(argument)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
