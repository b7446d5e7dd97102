"""The journal of a run: what became of each case in each step. Written by the coordinating process alone."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg.core.errors import UserError
from medseg.core.run import Result

STATES = ("done", "failed", "skipped", "review")

_TABLES = """
CREATE TABLE IF NOT EXISTS outcome (
  step TEXT, system TEXT, kase TEXT, state TEXT, reason TEXT, at REAL, PRIMARY KEY (step, system, kase));
CREATE TABLE IF NOT EXISTS event (at REAL, step TEXT, system TEXT, line TEXT);
"""


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = sqlite3.connect(path, timeout=30)
        connection.executescript(_TABLES)
        with connection:
            yield connection
    except sqlite3.DatabaseError as err:
        raise UserError(
            f"the journal cannot be used ({err})",
            str(path),
            "move it away; steps that ended are kept in steps.json",
        ) from err
    finally:
        if "connection" in locals():
            connection.close()


def record(path: Path, system: str, result: Result) -> None:
    """Writes one step's outcomes: cases that failed, were skipped or want a look, and its closing line."""
    now = time.time()
    with _open(path) as db:
        db.execute("DELETE FROM outcome WHERE step = ? AND system = ?", (result.step, system))
        for state, cases in (
            ("failed", result.failed),
            ("skipped", result.skipped),
            ("review", result.review),
        ):
            rows = [(result.step, system, case, state, reason, now) for case, reason in cases.items()]
            db.executemany("INSERT OR REPLACE INTO outcome VALUES (?, ?, ?, ?, ?, ?)", rows)
        db.execute("INSERT INTO event VALUES (?, ?, ?, ?)", (now, result.step, system, result.line))


def events(path: Path) -> list[tuple[float, str, str, str]]:
    """All closing lines so far: time, step, system, line."""
    if not path.exists():
        return []
    with _open(path) as db:
        return db.execute("SELECT at, step, system, line FROM event ORDER BY at").fetchall()


def outcomes(path: Path, state: str | None = None) -> list[tuple[str, str, str, str, str]]:
    """Rows (step, system, case, state, reason) of cases that were not plainly done."""
    if not path.exists():
        return []
    with _open(path) as db:
        rows = db.execute(
            "SELECT step, system, kase, state, reason FROM outcome ORDER BY step, kase"
        ).fetchall()
    return [row for row in rows if state is None or row[3] == state]
