"""Whether somebody works in a folder, told by marks that only killed processes leave behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medseg.core.at_work import at_work, say_who_works, who_works
from medseg.core.atomic import part_prefix, remove_leftovers

NOBODY = 2**22 + 7
"""A number above the largest that Linux gives to a process."""


def mark_of_a_killed_process(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / f"{part_prefix().replace(f'-{os.getpid()}-', f'-{NOBODY}-')}at-work"
    mark.touch()
    return mark


def test_a_process_that_works_is_seen_and_takes_its_mark_away(tmp_path: Path) -> None:
    assert who_works(tmp_path) == {"here": 0, "elsewhere": 0, "killed": 0}
    with at_work(tmp_path / "run"):
        assert who_works(tmp_path / "run") == {"here": 1, "elsewhere": 0, "killed": 0}
    assert list((tmp_path / "run").iterdir()) == []


def test_an_error_takes_the_mark_away_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken"), at_work(tmp_path):
        raise ValueError("broken")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_is_told_from_one_of_another_computer(tmp_path: Path) -> None:
    mark_of_a_killed_process(tmp_path)
    (tmp_path / ".part-0123abcd-12-at-work").touch()
    assert who_works(tmp_path) == {"here": 0, "elsewhere": 1, "killed": 1}


def test_the_next_call_removes_the_mark_of_the_killed_and_counts_no_file_for_it(tmp_path: Path) -> None:
    mark = mark_of_a_killed_process(tmp_path)
    half = tmp_path / mark.name.replace("at-work", "abc.nii.gz")
    half.touch()
    with at_work(tmp_path):
        assert remove_leftovers(tmp_path) == 1
        assert not mark.exists()
        assert not half.exists()
        assert who_works(tmp_path)["here"] == 1


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({"here": 1, "elsewhere": 0, "killed": 1}, "at work: a process of this computer"),
        ({"here": 2, "elsewhere": 0, "killed": 0}, "at work: 2 processes of this computer"),
        ({"here": 0, "elsewhere": 1, "killed": 0}, "of another computer, unless killed there; then CALL goes on"),
        ({"here": 0, "elsewhere": 0, "killed": 1}, "was killed before its end: CALL goes on"),
    ],
)  # fmt: skip
def test_a_person_reads_who_works(counts: dict[str, int], sentence: str) -> None:
    assert sentence in say_who_works(counts, "CALL")


def test_nothing_is_said_where_no_process_left_a_mark(tmp_path: Path) -> None:
    assert say_who_works(who_works(tmp_path), "CALL") == ""
