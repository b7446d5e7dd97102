"""What the machine offers, and memory that is watched."""

from __future__ import annotations

import numpy as np
import pytest

from medseg.core import UserError
from medseg.core.machine import (
    choose_device,
    cores,
    parse_bytes,
    ram_available_bytes,
    ram_limit_bytes,
    watch_memory,
)
from medseg.core.progress import Progress, duration


@pytest.mark.parametrize(
    ("text", "expected"), [("6 GB", 6e9), ("800MB", 8e8), ("2.5GiB", 2.5 * 2**30), (1000, 1000), ("12", 12)]
)
def test_amounts_of_memory_are_read(text: str | int, expected: float) -> None:
    assert parse_bytes(text) == int(expected)


def test_an_amount_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match="'much' is no amount of memory"):
        parse_bytes("much")


def test_the_machine_has_cores_and_memory() -> None:
    assert cores() >= 1
    assert 0 < ram_available_bytes() <= ram_limit_bytes()


def test_memory_that_is_used_is_seen() -> None:
    with watch_memory(0.01) as trace:
        block = np.ones(30_000_000)
        start = trace.peak_bytes
        while trace.samples < 5:
            block += 1
    assert trace.peak_bytes >= start > 0
    assert trace.peak_bytes - trace.mean_bytes < trace.peak_bytes


def test_a_device_that_is_not_there_is_refused_with_the_reason() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=r"compute\.device cuda does not work"):
        choose_device("cuda")
    assert "no GPU" in choose_device("auto").reason


def test_progress_shows_share_and_remaining_time() -> None:
    bar = Progress("train", 10, "steps")
    bar._start -= 30
    bar.done = 5
    assert "50%" in bar.line()
    assert "ETA 30 s" in bar.line()


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (190, "3 min 10 s"), (7500, "2 h 05 min")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
