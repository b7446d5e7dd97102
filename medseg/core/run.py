"""A run folder: every file a run writes has one name, here. And what a step says when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from medseg.core.atomic import read_json, write_json
from medseg.core.errors import UserError

WRITTEN_BY = "# Written by medseg"
"""How the pipeline file of a run folder begins."""


@dataclass(frozen=True)
class RunFolder:
    """The places of a run.

    A run that compares several systems has one child folder a system (`folder.system("v-net")`); what the systems
    share (cases, prepared arrays, check, journal, log) stays in the parent, reached through the same properties.

    A cross-validation has one member folder a training (`folder.fold("fold-0")`): a run folder of its own whose table
    of cases (`own_cases`) says who trains and who validates there.
    """

    path: Path
    parent: RunFolder | None = None
    own_cases: Path | None = None

    @property
    def root(self) -> RunFolder:
        return self.parent.root if self.parent else self

    def system(self, name: str) -> RunFolder:
        """The folder of one of several systems."""
        return RunFolder(self.path / "systems" / name, self)

    def fold(self, name: str) -> RunFolder:
        """The folder of one training of a cross-validation."""
        place = self.path / "folds" / name
        return RunFolder(place, self, place / "cases.parquet")

    @property
    def pooled(self) -> RunFolder:
        """This folder, with the cases of all folds as training cases: what the shared plan is made from."""
        return replace(self, own_cases=self.path / "folds" / "cases.parquet")

    @property
    def is_fold(self) -> bool:
        """Whether this is one training of a cross-validation."""
        return self.own_cases == self.path / "cases.parquet"

    def finished_folds(self) -> list[RunFolder]:
        """The member folders whose training, prediction and scores are complete, in the order of their names."""
        names = [path.parent.name for path in self.path.glob("folds/*/member.json")]
        return [self.fold(name) for name in sorted(names, key=_by_number)]

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
        return self.own_cases or self.root.path / "cases.parquet"

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
        """A member of a cross-validation keeps its own: folds may be trained by several processes at once."""
        return (self if self.is_fold else self.root).path / "journal.sqlite"

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
    def member(self) -> Path:
        """member.json: fold, seed and settings of a finished training of a cross-validation."""
        return self.path / "member.json"

    @property
    def folds_table(self) -> Path:
        """Scores of every case by the model that has not seen it, with the fold."""
        return self.path / "folds" / "scores.parquet"

    @property
    def folds_json(self) -> Path:
        """The same as means, with the spread over folds and seeds."""
        return self.path / "folds" / "scores.json"

    @property
    def postprocessing(self) -> Path:
        """What cross-validation chose to do after the network, with the figures of what was tried."""
        return self.path / "postprocessing.json"

    @property
    def choice(self) -> Path:
        """The best of several systems, with the figures of all."""
        return self.path / "choice.json"

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
        try:
            return read_json(self.steps) if self.steps.exists() else {}
        except UserError as err:
            hint = "take the file away: the steps are walked again, and cases that are finished stay so"
            raise UserError(err.what, err.where, hint) from err

    def mark_done(self, step: str, facts: Mapping[str, Any]) -> None:
        """Writes down that a step came to its end; a step without this mark is done again."""
        write_json(self.steps, {**self.steps_done(), step: dict(facts)})


def refuse_others_files(folder: Path) -> None:
    """Raises UserError where a run would write over what it did not make: a pipeline file with comments, a model."""
    run = RunFolder(folder)
    if run.pipeline_file.is_file() and _is_ours(run.pipeline_file):
        return
    places = (
        run.pipeline_file,
        run.model,
        run.checkpoints,
        run.prepared,
        run.predictions,
        run.figures,
        run.report,
    )
    own = [place.name for place in places if place.exists()]
    if own:
        raise UserError(
            f"holds {', '.join(own)} that no run of medseg made, and a run in this folder would write over it",
            str(folder),
            "choose another run folder with --out",
        )


def holds_results(folder: Path) -> bool:
    """Whether medseg wrote this folder: a run, or predicted masks. No data of a person's lies there, and a mask that
    was predicted is no reference for the next prediction."""
    run, manifest = RunFolder(folder), folder / "manifest"
    if (run.private / "key.hex").is_file() or (run.pipeline_file.is_file() and _is_ours(run.pipeline_file)):
        return True
    return (manifest / "manifest.json").is_file() and (manifest / "failed.csv").is_file()


def _is_ours(pipeline_file: Path) -> bool:
    """Whether a run wrote this file; people write files of this name, too."""
    with pipeline_file.open("rb") as file:
        return file.read(len(WRITTEN_BY)) == WRITTEN_BY.encode()


def _by_number(name: str) -> list[tuple[int, str]]:
    """fold-2 before fold-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split("-")]


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
