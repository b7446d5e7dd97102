"""`medseg status` of folders as a killed process leaves them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from medseg.core.atomic import part_prefix, write_json
from medseg.core.run import RunFolder
from medseg.jobs import journal

NOBODY = 2**22 + 7
"""A number above the largest that Linux gives to a process."""


def kill(folder: Path) -> None:
    """What `kill -9` leaves behind in a folder that a process worked in."""
    (folder / f"{part_prefix().replace(f'-{os.getpid()}-', f'-{NOBODY}-')}at-work").touch()


def run_until(path: Path, *steps: str) -> RunFolder:
    """A run folder in which these steps came to their end."""
    folder = RunFolder(path)
    path.mkdir()
    folder.pipeline_file.write_text("name: tiny\n", encoding="utf-8")
    for step in steps:
        folder.mark_done(step, {"line": f"{step} went well", "seconds": 3.0})
    return folder


@pytest.fixture
def training(tmp_path: Path) -> RunFolder:
    """A run whose process was killed in its training, in the middle of a line of the history."""
    folder = run_until(tmp_path / "my run", "check", "plan", "ingest")
    folder.history.write_text('{"step": 60, "seconds": 75.2}\n{"step": 90, "sec', encoding="utf-8")
    kill(folder.path)
    return folder


def test_a_killed_training_says_how_far_it_came_and_what_goes_on(
    medseg: Callable, training: RunFolder
) -> None:
    code, text, _ = medseg("status", training.path)
    assert code == 0
    assert "train    not finished: step 60 after 1 min 15 s, no checkpoint yet, it will begin again" in text
    assert "the process that worked here was killed before its end: `medseg run" in text
    assert f"'{training.pipeline_file}' --out '{training.path}'` goes on" in text


def test_a_checkpoint_that_is_kept_is_named(medseg: Callable, training: RunFolder) -> None:
    training.checkpoints.mkdir()
    (training.checkpoints / "last.safetensors").touch()
    _, text, _ = medseg("status", training.path)
    assert "step 60 after 1 min 15 s, its checkpoint is kept" in text


def test_a_script_gets_the_same_facts(medseg: Callable, training: RunFolder) -> None:
    code, facts, _ = medseg("status", training.path, "--json")
    assert code == 0
    assert facts["at_work"] == {"here": 0, "elsewhere": 0, "killed": 1}
    assert facts["unfinished"]["next"] == "train"
    assert facts["unfinished"]["trainings"] == {".": {"step": 60, "seconds": 75.2, "checkpoint": False}}


def test_a_killed_prediction_counts_what_is_done_and_what_waits(medseg: Callable, tmp_path: Path) -> None:
    folder = run_until(tmp_path / "run", "check", "plan", "ingest", "train")
    journal.begin(folder.journal, "predict", "", ["a", "b", "c"])
    journal.note(folder.journal, "predict", "", "a", "done")
    kill(folder.path)
    _, text, _ = medseg("status", folder.path)
    assert "predict  not finished: 1 cases done, 2 waiting" in text


def test_a_run_that_was_stopped_gently_names_the_next_step(medseg: Callable, tmp_path: Path) -> None:
    folder = run_until(tmp_path / "run", "check")
    _, text, _ = medseg("status", folder.path)
    assert "plan     comes next" in text
    assert "killed" not in text


def test_nothing_is_added_to_a_run_that_is_over(medseg: Callable, tmp_path: Path) -> None:
    steps = ("check", "plan", "ingest", "train", "predict", "score", "report")
    folder = run_until(tmp_path / "run", *steps)
    _, text, _ = medseg("status", folder.path)
    assert len(text.strip().splitlines()) == len(steps)
    _, facts, _ = medseg("status", folder.path, "--json")
    assert facts["unfinished"] is None


def test_a_folder_of_masks_says_that_its_process_was_killed(medseg: Callable, tmp_path: Path) -> None:
    book = tmp_path / "masks" / "manifest" / "journal.sqlite"
    journal.begin(book, "predict", "", ["a", "b"])
    write_json(tmp_path / "masks" / "a.json", {"case": "a", "files": [], "flags": []})
    kill(tmp_path / "masks")
    _, text, _ = medseg("status", tmp_path / "masks")
    assert "1 done, 0 to look at, 0 failed, 1 waiting" in text
    assert "was killed before its end: the same `medseg predict` call goes on" in text
    _, facts, _ = medseg("status", tmp_path / "masks", "--json")
    assert json.dumps(facts["at_work"]) == '{"here": 0, "elsewhere": 0, "killed": 1}'
