"""Jobs of one run take turns."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from medseg.jobs.lock import one_at_a_time


def test_two_jobs_never_hold_the_lock_at_once(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with one_at_a_time(tmp_path / "run" / ".lock", "this run"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_job_that_fails_lets_go(tmp_path: Path) -> None:
    for _ in range(2):
        try:
            with one_at_a_time(tmp_path / ".lock", "this run"):
                raise ValueError
        except ValueError:
            continue
