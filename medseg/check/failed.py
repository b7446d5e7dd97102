"""The cases that failed, as a table that can be given to medseg again once they are repaired."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from medseg.core.atomic import write_text
from medseg.core.run import RunFolder
from medseg.data.rows import Cohort


def write_failed(cohort: Cohort, states: Sequence[tuple[str, str]], folder: RunFolder) -> None:
    """private/failed.csv: the cases that failed as a manifest, so that they can be tried again once repaired."""
    failed = [(row, reason) for row, (status, reason) in zip(cohort.rows, states) if status == "failed"]
    path = folder.private / "failed.csv"
    if not failed:
        path.unlink(missing_ok=True)
        return
    width = max(max(len(row.images) for row, _ in failed), 1)
    images = ["image"] if width == 1 else [f"image_{c}" for c in _channel_names(cohort, width)]
    labels = sorted({column for row, _ in failed for column in row.labels})
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["case", "patient", *images, *labels, "split", "reason"], lineterminator="\n"
    )
    writer.writeheader()
    for row, reason in failed:
        files = {c: _one_path(channel) for c, channel in zip(images, row.images)}
        writer.writerow(
            {
                "case": row.case,
                "patient": row.patient,
                **files,
                **row.labels,
                "split": row.split,
                "reason": reason,
            }
        )
    write_text(path, text.getvalue())


def _channel_names(cohort: Cohort, width: int) -> Sequence[str]:
    return cohort.channels if len(cohort.channels) == width else [str(n) for n in range(width)]


def _one_path(channel: Sequence[str]) -> str:
    if not channel:
        return ""
    return channel[0] if len(channel) == 1 else str(Path(channel[0]).parent)
