"""Which of the cases this call does: all, those that failed before, every n-th, or a trial across the cohort."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import UserError

if TYPE_CHECKING:
    from medseg.predict.job import Task


@dataclass(frozen=True)
class Share:
    """only: "" or "failed". shard: "" or "i/n", i from 1. trial: 0, or how many cases spread over the cohort."""

    only: str = ""
    shard: str = ""
    trial: int = 0

    @property
    def parts(self) -> tuple[int, int]:
        """(i, n); (1, 1) where there is no shard. Raises UserError for what is no shard."""
        if not self.shard:
            return 1, 1
        match = re.fullmatch(r"(\d+)/(\d+)", self.shard.strip())
        number, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= number <= count:
            raise UserError(
                f"'{self.shard}' is no share",
                "--shard",
                "write it like 3/8: the third of eight, counted from 1",
            )
        return number, count

    @property
    def name(self) -> str:
        """The share in the name of a journal."""
        return "{}-of-{}".format(*self.parts) if self.shard else ""

    def of(self, tasks: Sequence[Task], *outs: Path) -> list[Task]:
        """The tasks of this call. outs: where masks go; with `only`, a case counts that failed in one of them.

        A case is in the same share whatever the other jobs have done meanwhile. Raises UserError when nothing failed
        before and `only` asks for that.
        """
        from medseg.predict.manifest import failed_before

        number, count = self.parts
        chosen = list(tasks)[number - 1 :: count]
        if self.only:
            failed = {case for out in outs for case in failed_before(out)}
            if not failed.intersection(task.case for task in tasks) and count == 1:
                raise UserError(
                    "no case failed before", str(outs[0]), "leave out --only failed to do all cases"
                )
            chosen = [task for task in chosen if task.case in failed]
        if self.trial and len(chosen) > self.trial:
            step = len(chosen) / self.trial
            chosen = [chosen[int((i + 0.5) * step)] for i in range(self.trial)]
        return chosen


ALL = Share()


def forecast(done: Mapping[str, Mapping[str, Any]], cases: int, out: Path) -> dict[str, Any]:
    """What a cohort of `cases` will cost, from the cases of a trial: seconds, memory, bytes written."""
    seconds = sorted(float(facts["seconds"]) for facts in done.values())
    if not seconds:
        return {}
    written = [
        sum((out / name).stat().st_size for name in facts["files"] if (out / name).is_file())
        for facts in done.values()
    ]
    return {
        "cases": cases,
        "median_seconds": statistics.median(seconds),
        "seconds_95_percent": seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))],
        "hours": sum(seconds) / len(seconds) * cases / 3600,
        "peak_ram_bytes": max(int(facts["peak_ram_bytes"]) for facts in done.values()),
        "bytes": int(sum(written) / len(written) * cases),
    }


def forecast_line(facts: Mapping[str, Any]) -> str:
    """The forecast in a sentence."""
    return (
        f"trial: median {facts['median_seconds']:.0f} s, 95 % within {facts['seconds_95_percent']:.0f} s, peak "
        f"{facts['peak_ram_bytes'] / 1e9:.1f} GB; all {facts['cases']} cases: about {facts['hours']:.1f} h one after the "
        f"other, {facts['bytes'] / 1e9:.1f} GB written"
    )
