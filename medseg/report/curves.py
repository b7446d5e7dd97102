"""Training curves as one SVG."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read_history(path: Path) -> list[dict[str, Any]]:
    """The whole lines of history.jsonl; a line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def draw_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Loss (left) and validation Dice (right) over minutes; one colour a system. Empty text without any line."""
    if not any(histories.values()):
        return ""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.2, 2.9), facecolor="none")
    left, right = figure.subplots(1, 2)
    for number, (name, lines) in enumerate(histories.items()):
        colour = f"C{number}"
        _line(left, lines, "loss", colour, name)
        _line(right, lines, "val_dice", colour, name)
    for axis, title in ((left, "training loss"), (right, "validation Dice")):
        axis.set_xlabel("minutes")
        axis.set_title(title, fontsize=10, loc="left")
        axis.grid(alpha=0.25)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    right.set_ylim(0, 1)
    if len(histories) > 1:
        left.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    out = io.StringIO()
    FigureCanvasSVG(figure).print_svg(out)
    text = out.getvalue()
    return text[text.index("<svg") :]


def _line(axis: Any, lines: Sequence[Mapping[str, Any]], key: str, colour: str, name: str) -> None:
    points = [(line["seconds"] / 60, line[key]) for line in lines if line.get(key) is not None]
    if points:
        marker = "o" if len(points) < 40 else ""
        axis.plot(*zip(*points), color=colour, marker=marker, markersize=3, linewidth=1.4, label=name)
