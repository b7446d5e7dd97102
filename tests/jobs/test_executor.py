"""Many cases: one bad case never stops the others, counts add up, nothing private leaks into reasons."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from medseg.core import UserError
from medseg.core.errors import Interrupted
from medseg.core.run import Result
from medseg.jobs import journal
from medseg.jobs.executor import InProcess, map_cases


def work(number: int) -> int:
    if number % 5 == 0:
        raise UserError(f"slice {number} is missing", "/secret/Müller^Hans/scan.dcm")
    if number == 7:
        raise ValueError("/secret/Müller^Hans")
    return number * 2


@pytest.mark.parametrize("workers", [1, 3])
def test_bad_cases_are_named_and_the_others_come_through(workers: int) -> None:
    outcomes = list(map_cases(work, range(1, 21), "test", workers=workers))
    done = {o.item: o.value for o in outcomes if o.error is None}
    failed = {o.item: o.reason for o in outcomes if o.error is not None}
    assert len(done) + len(failed) == 20
    assert sorted(failed) == [5, 7, 10, 15, 20]
    assert failed[5] == "slice 5 is missing"
    assert done[3] == 6


def test_reasons_hold_neither_paths_nor_names() -> None:
    reasons = " ".join(o.reason for o in map_cases(work, [5, 7], "test", workers=1))
    assert "secret" not in reasons
    assert "Müller" not in reasons
    assert "ValueError" in reasons


@pytest.mark.parametrize("error", [Interrupted("stop"), UserError("the disk is full")])
def test_interruption_and_a_full_disk_stop_everything(error: Exception) -> None:
    def fail(_: int) -> None:
        raise error

    with pytest.raises(type(error)):
        list(map_cases(fail, range(4), "test", workers=2))


def test_only_a_few_items_are_in_flight_at_once() -> None:
    flying, most, lock = [0], [0], threading.Lock()

    def slow(_: int) -> None:
        with lock:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
        threading.Event().wait(0.002)
        with lock:
            flying[0] -= 1

    list(map_cases(slow, range(40), "test", workers=2))
    assert most[0] <= 2


def test_the_in_process_executor_keeps_exceptions_for_the_result() -> None:
    with InProcess() as pool:
        assert pool.submit(int, "3").result() == 3
        assert isinstance(pool.submit(int, "x").exception(), ValueError)


def test_a_script_without_a_main_guard_is_not_started_again_for_every_worker(tmp_path: Path) -> None:
    script = tmp_path / "three_lines.py"
    script.write_text(
        "from medseg.jobs.executor import map_cases\n"
        "print('started')\n"
        "print(sum(o.value for o in map_cases(abs, [-1, -2, -3], 'test', workers=2)))\n"
    )
    out = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True
    )
    assert out.stdout.split() == ["started", "6"]


def test_the_journal_keeps_what_became_of_each_case(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal.record(path, "", Result("predict", "two done", 2, failed={"a": "gap"}, review={"b": "empty"}))
    journal.record(path, "", Result("predict", "three done", 3, review={"b": "empty"}))
    assert journal.outcomes(path) == [("predict", "", "b", "review", "empty")]
    assert [line for *_, line in journal.events(path)] == ["two done", "three done"]


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_text("this is no database, but it is long enough to look like one" * 20)
    with pytest.raises(UserError, match="journal cannot be used"):
        journal.events(path)


def test_a_full_disk_is_not_called_a_damaged_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_TABLES", "PRAGMA max_page_count=1;" + journal._TABLES)
    with pytest.raises(UserError, match="the disk is full") as caught:
        journal.list_input(tmp_path / "journal.sqlite", "predict", "", ["a"], {})
    assert "free some space" in caught.value.hint


def test_a_journal_that_may_not_be_opened_is_about_writing(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").mkdir()
    with pytest.raises(UserError, match="no permission to write here"):
        journal.events(tmp_path / "journal.sqlite")
