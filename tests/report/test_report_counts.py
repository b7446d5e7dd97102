"""How many cases the page says took part."""

from __future__ import annotations

from pathlib import Path

from medseg.core.run import RunFolder
from medseg.data.cohort import save_cohort
from medseg.data.rows import CaseRow, Cohort
from medseg.report.page import _split_counts


def test_a_case_that_failed_the_check_does_not_count_as_trained_on(tmp_path: Path) -> None:
    rows = tuple(
        CaseRow(f"c{n}", f"c{n}", (("a.nii.gz",),), split="val" if n == 3 else "train") for n in range(5)
    )
    states = [{"status": "failed" if n in (1, 3) else "ok", "reason": ""} for n in range(5)]
    folder = RunFolder(tmp_path)
    save_cohort(Cohort(rows), folder, states)
    assert _split_counts(folder) == {"for training": 3, "not used": 2}
