"""history.jsonl: one line now and then with the loss, and the validation figures when there was a look."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LINES = 40
"""Lines a training writes, evenly over its length; every validation writes one more."""


class History:
    """Adds up losses and writes their mean line by line; whole lines only, flushed at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.total, self.count, self.mark, self.lines = 0.0, 0, 0, 0
        self.last_loss = math.nan
        self.last_mean: float | None = None

    def add(self, loss: float) -> None:
        """Takes in the loss of a step; one that is not finite is shown and not averaged."""
        self.last_loss = loss
        if math.isfinite(loss):
            self.total, self.count = self.total + loss, self.count + 1

    def clear(self) -> None:
        """Starts a new file."""
        self.path.unlink(missing_ok=True)

    def is_due(self, t: float) -> bool:
        """Whether position t of the training has passed the next line."""
        return int(t * LINES) > self.mark

    def write(self, t: float, facts: Mapping[str, Any]) -> None:
        """Appends a line with the mean loss since the last one."""
        self.mark = int(t * LINES)
        mean = self.last_mean = self.total / self.count if self.count else None
        self.total, self.count, self.lines = 0.0, 0, self.lines + 1
        line = {**facts, "loss": mean}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"total": self.total, "count": self.count, "mark": self.mark, "lines": self.lines}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on after a checkpoint: lines that will be written again are dropped."""
        self.total, self.count = float(state["total"]), int(state["count"])
        self.mark, self.lines = int(state["mark"]), int(state["lines"])
        kept = self._lines()[: self.lines]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def _lines(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]
