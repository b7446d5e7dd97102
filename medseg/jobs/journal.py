"""The journal of a run: what became of each case in each step. Written by the coordinating process alone."""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from medseg.core.atomic import writing_failed
from medseg.core.errors import UserError
from medseg.core.run import Result

STATES = ("listed", "waiting", "done", "failed", "skipped", "review")
"""listed: a case of the input that no call has begun; waiting: begun, and nothing became of it yet."""

PLAIN = ("listed", "waiting", "done")
"""States that say nothing a person has to know of a case."""

_TABLES = """
CREATE TABLE IF NOT EXISTS outcome (
  step TEXT, system TEXT, kase TEXT, state TEXT, reason TEXT, at REAL, PRIMARY KEY (step, system, kase));
CREATE TABLE IF NOT EXISTS event (at REAL, step TEXT, system TEXT, line TEXT);
"""


_SAYS = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EACCES,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
}
"""What the database means where the system has a word of its own for it."""


def _in_words(err: sqlite3.DatabaseError, path: Path) -> UserError:
    code = (getattr(err, "sqlite_errorcode", None) or 0) & 0xFF
    if code in _SAYS:
        return writing_failed(OSError(_SAYS[code], str(err)), path)
    hint = "move it away: what is finished is kept, and not done again"
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        hint = "another process holds it: wait until that is through"
    return UserError(f"the journal cannot be used ({err})", str(path), hint)


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = sqlite3.connect(path, timeout=30)
        connection.executescript(_TABLES)
        with connection:
            yield connection
    except sqlite3.DatabaseError as err:
        raise _in_words(err, path) from err
    finally:
        if "connection" in locals():
            connection.close()


def list_input(path: Path, step: str, system: str, cases: Iterable[str], left_out: Mapping[str, str]) -> None:
    """Notes all cases that there are, whoever will do them, and what is no case with the reason.

    What the journal knows of a case already stays, unless it was left out before.
    """
    now = time.time()
    with _open(path) as db:
        rows = [(step, system, case, "listed", "", now) for case in cases]
        again = "ON CONFLICT DO UPDATE SET state = 'listed', reason = '', at = excluded.at WHERE state = 'skipped'"
        db.executemany(f"INSERT INTO outcome VALUES (?, ?, ?, ?, ?, ?) {again}", rows)
        rows = [(step, system, case, "skipped", reason, now) for case, reason in left_out.items()]
        db.executemany("INSERT OR REPLACE INTO outcome VALUES (?, ?, ?, ?, ?, ?)", rows)


def begin(path: Path, step: str, system: str, cases: Iterable[str]) -> None:
    """Notes the cases that are to be done; what the journal knows of others stays."""
    now = time.time()
    with _open(path) as db:
        rows = [(step, system, case, "waiting", "", now) for case in cases]
        db.executemany("INSERT OR REPLACE INTO outcome VALUES (?, ?, ?, ?, ?, ?)", rows)


def note(path: Path, step: str, system: str, case: str, state: str, reason: str = "") -> None:
    """Notes what became of one case, as soon as it is known."""
    assert state in STATES, state
    with _open(path) as db:
        row = (step, system, case, state, reason, time.time())
        db.execute("INSERT OR REPLACE INTO outcome VALUES (?, ?, ?, ?, ?, ?)", row)


def record(path: Path, system: str, result: Result, noted: bool = False) -> None:
    """Writes one step's outcomes: cases that failed, were skipped or want a look, and its closing line.

    noted: the cases of this call were noted one by one, and the journal may know of further cases, which stay;
    otherwise these outcomes replace all earlier ones of the step. Cases that are named nowhere came through.
    """
    now = time.time()
    with _open(path) as db:
        mine = "step = ? AND system = ?", (result.step, system)
        if not noted:
            kept = "'listed', 'waiting', 'done'"
            db.execute(f"DELETE FROM outcome WHERE {mine[0]} AND state NOT IN ({kept})", mine[1])
        db.execute(f"UPDATE outcome SET state = 'done' WHERE {mine[0]} AND state = 'waiting'", mine[1])
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
    """Rows (step, system, case, state, reason) of one state; without one, of cases that were not plainly done."""
    if not path.exists():
        return []
    with _open(path) as db:
        rows = db.execute(
            "SELECT step, system, kase, state, reason FROM outcome ORDER BY step, kase"
        ).fetchall()
    return [row for row in rows if (row[3] not in PLAIN if state is None else row[3] == state)]


def counts(path: Path, step: str) -> dict[str, int]:
    """State -> number of cases of a step; empty where nothing was noted."""
    if not path.exists():
        return {}
    with _open(path) as db:
        query = "SELECT state, count(*) FROM outcome WHERE step = ? GROUP BY state"
        return dict(db.execute(query, (step,)).fetchall())
