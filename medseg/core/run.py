"""A run folder: every file a run writes has one name, here. And what a step says when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.core.atomic import read_json, write_json


@dataclass(frozen=True)
class RunFolder:
    """The places of a run.

    A run that compares several systems has one child folder a system (`folder.system("v-net")`); what the systems
    share (cases, prepared arrays, check, journal, log) stays in the parent, reached through the same properties.
    """

    path: Path
    parent: RunFolder | None = None

    @property
    def root(self) -> RunFolder:
        return self.parent.root if self.parent else self

    def system(self, name: str) -> RunFolder:
        """The folder of one of several systems."""
        return RunFolder(self.path / "systems" / name, self)

    # Shared by all systems of a run.
    @property
    def pipeline_file(self) -> Path:
        return self.root.path / "pipeline.yaml"

    @property
    def check_json(self) -> Path:
        return self.root.path / "check.json"

    @property
    def cases(self) -> Path:
        """cases.parquet: case, patient, split, fold, status, reason, content hash, grid facts; no paths, no names."""
        return self.root.path / "cases.parquet"

    @property
    def private(self) -> Path:
        """Where the table case -> source files lies; never copied to logs, pages or tracking."""
        return self.root.path / "private"

    @property
    def sources(self) -> Path:
        return self.private / "sources.json"

    @property
    def prepared(self) -> Path:
        """Prepared cases, one folder a key of plan and code."""
        return self.root.path / "prepared"

    @property
    def journal(self) -> Path:
        return self.root.path / "journal.sqlite"

    @property
    def log(self) -> Path:
        return self.root.path / "run.log"

    # One a system.
    @property
    def plan(self) -> Path:
        return self.path / "plan.yaml"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def history(self) -> Path:
        """history.jsonl: one line a validation round: step, seconds, loss, rate, val_dice, val_iou ..."""
        return self.path / "history.jsonl"

    @property
    def predictions(self) -> Path:
        """CASE.<suffix> masks, and CASE.json with seconds, peak memory, volumes, flags, model hash."""
        return self.path / "predictions"

    @property
    def scores_table(self) -> Path:
        return self.path / "scores.parquet"

    @property
    def scores_json(self) -> Path:
        return self.path / "scores.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        """PNG overlays that the report embeds and tracking stores."""
        return self.path / "figures"

    @property
    def steps(self) -> Path:
        return self.path / "steps.json"

    def steps_done(self) -> dict[str, dict[str, Any]]:
        """Step -> {stamp, seconds, peak_ram_bytes, line, counts} of the steps that came to their end."""
        return read_json(self.steps) if self.steps.exists() else {}

    def mark_done(self, step: str, facts: Mapping[str, Any]) -> None:
        """Writes down that a step came to its end; a step without this mark is done again."""
        write_json(self.steps, {**self.steps_done(), step: dict(facts)})


@dataclass
class Result:
    """What a step says when it ends.

    line: one sentence for people, free of private facts.
    done: how many cases came through; failed, skipped, review: case -> reason.
    details: numbers for --json, tracking and the report.
    """

    step: str
    line: str
    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    review: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        return {
            "done": self.done,
            "failed": len(self.failed),
            "skipped": len(self.skipped),
            "review": len(self.review),
        }
