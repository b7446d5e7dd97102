"""What a prediction of many cases needs, and what it found out so far."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.config import Data, Predict
from medseg.core.atomic import writing_failed
from medseg.core.case import Case
from medseg.core.errors import Interrupted, UserError
from medseg.core.machine import peak_ram_bytes
from medseg.core.progress import say
from medseg.core.run import Result
from medseg.jobs import journal
from medseg.jobs.executor import Outcome
from medseg.predict import outputs
from medseg.predict.case import Predictor

if TYPE_CHECKING:
    from medseg.config_types import Prompts
    from medseg.core.segmentation import ClassInfo
    from medseg.data.rows import CaseRow
    from medseg.ingest.previous import Mask
    from medseg.predict.prompts import Hints


@dataclass(frozen=True)
class Task:
    """One case to do: how to open it, the files that it is made of, and where its prompt comes from.

    row: the same as data, for workers in other processes; None for what only this process can open.
    """

    case: str
    opener: Callable[[], Case]
    files: tuple[str, ...]
    hints: Hints | None = None
    row: CaseRow | None = None


def task_of(row: CaseRow, data: Data, prompts: Prompts | None, classes: Sequence[ClassInfo]) -> Task:
    """The task of a row of a cohort. classes: those that prompts name."""
    from medseg.data.cohort import open_case
    from medseg.predict.prompts import find_hints

    return Task(
        row.case,
        partial(open_case, row, data, ()),
        tuple(name for channel in row.images for name in channel),
        find_hints(row, data, prompts, classes),
        row,
    )


@dataclass
class Job:
    """One model's walk over cases.

    settings_hash: equal hash, equal masks. budget: bytes that the process may use. journal: where it is noted at once
    what became of each case, under the name `system`; None: nowhere. expected: how many cases this folder will come
    to, about, where that is more than those of this call: it decides which engine pays. earlier_window_bytes: of a
    cascade's earlier stage. masks: of that stage, by the hash of an image's bytes, for cases that its joined model has
    learnt from.
    """

    predictor: Predictor
    out: Path
    settings: Predict
    settings_hash: str
    budget: int
    window_bytes: int = 0
    earlier_window_bytes: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    review: dict[str, str] = field(default_factory=dict)
    done: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    announced: bool = False
    journal: Path | None = None
    system: str = ""
    expected: int = 0
    masks: Mapping[str, Mask] = field(default_factory=dict)

    def hand_mask(self, content: str) -> None:
        """Gives the predictor the mask of a cascade's earlier stage, for a case whose mask may not be drawn now."""
        from medseg.ingest.previous import read_mask

        mask = self.masks.get(content)
        for part in self.predictor.parts or (self.predictor,):
            previous = part.model.plan.previous
            part.drawn = None if mask is None or previous is None else read_mask(mask, previous)

    def facts(self, content: str) -> dict[str, str]:
        """What a complete case of this job has in its JSON."""
        return {"model": self.predictor.model.hash, "settings": self.settings_hash, "input": content}

    def engine_facts(self) -> dict[str, str]:
        """What a choice of engine is good for."""
        kind = self.predictor.device.partition(":")[0]
        return {"model": self.predictor.model.hash, "settings": self.settings_hash, "device": kind}

    def list_input(self, cases: Sequence[str], left_out: Mapping[str, str]) -> None:
        """Notes all that was found in the data, whichever call will do it."""
        if self.journal is not None:
            journal.list_input(self.journal, "predict", self.system, cases, left_out)

    def begin(self, cases: Sequence[str]) -> None:
        """Notes what is to be done."""
        if self.journal is not None:
            journal.begin(self.journal, "predict", self.system, cases)

    def keep(self, case: str, facts: Mapping[str, Any], fresh: bool) -> None:
        """Notes a case that came through. fresh: it was predicted now, not before. Cases with flags are to be looked
        at, whenever they were predicted."""
        if fresh:
            self.done[case] = facts
        if facts.get("flags"):
            self.review[case] = "; ".join(facts["flags"])
        self._note(case, "review" if case in self.review else "done", self.review.get(case, ""))

    def fail(self, case: str, error: BaseException) -> None:
        """Notes why a case failed, and removes masks of an earlier image; what stops all further cases is raised."""
        if isinstance(error, Interrupted) or not isinstance(error, Exception):
            raise error
        if isinstance(error, UserError) and "disk is full" in error.what:
            raise error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise writing_failed(error, self.out / case) from error
        self.fail_because(case, Outcome(case, error=error).reason)

    def fail_because(self, case: str, reason: str) -> None:
        """Notes why a case failed."""
        self.failed[case] = reason
        outputs.discard(self.out, case)
        self._note(case, "failed", reason)
        say(f"  case {case} failed: {reason}")

    def _note(self, case: str, state: str, reason: str) -> None:
        if self.journal is not None:
            journal.note(self.journal, "predict", self.system, case, state, reason)

    def result(self, cases: int, left_out: Mapping[str, str], seconds: float) -> Result:
        """What the step says at its end; the counts add up to the cases."""
        fresh = len(self.done)
        done = cases - len(self.failed)
        spent = sum(f["seconds"] for f in self.done.values())
        parts = [f"{done} of {cases} cases predicted" + (f", {spent / fresh:.1f} s each" if fresh else "")]
        if done > fresh:
            parts.append(f"{done - fresh} done before")
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        if self.review:
            parts.append(f"{len(self.review)} to look at")
        if self.predictor.engine:
            parts.append(self.predictor.engine)
        details = {
            "new": fresh,
            "kept": done - fresh,
            "engine": self.predictor.engine,
            "model": self.predictor.model.hash,
            "seconds": round(seconds, 2),
            "seconds_per_case": round(spent / max(1, fresh), 3),
            "peak_ram_bytes": peak_ram_bytes(),
        }
        return Result("predict", ", ".join(parts), done, self.failed, dict(left_out), self.review, details)
