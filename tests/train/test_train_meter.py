"""What a training says of waiting and augmenting, epoch by epoch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from medseg.train import loop, meter
from medseg.train.loop import train
from medseg.train.meter import Meter


def test_each_epoch_has_a_line_with_its_own_percentages() -> None:
    watched = Meter()
    assert watched.after_step(0.5, 10.0, 0.0) is None
    watched.augmented = 6.0
    assert watched.after_step(1.0, 70.0, 3.0) == "epoch 1: 5.0 % of 60 s waiting for data, 10.0 % augmenting"
    assert watched.after_step(1.5, 120.0, 3.0) is None, "the epoch is not over"
    assert watched.after_step(2.0, 170.0, 3.0) == "epoch 2: 0.0 % of 100 s waiting for data, 0.0 % augmenting"


def test_short_epochs_share_a_line() -> None:
    watched = Meter()
    said = [watched.after_step(step / 2, float(step), 0.25 * step) for step in range(1, 70)]
    lines = [line for line in said if line]
    assert lines[0] == "epochs 1 to 15: 25.0 % of 30 s waiting for data, 0.0 % augmenting"
    assert lines[1].startswith("epochs 16 to ")


def test_a_training_prints_the_lines_and_writes_the_share_of_augmentation(
    job: Callable, small: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(loop, "say", said.append)
    monkeypatch.setattr(meter, "SECONDS_A_LINE", 0.0)

    def slow(images, targets, rng):
        time.sleep(0.05)
        return images, targets

    given = job(steps=8)
    result = train(small(), given, slow)
    lines = [line for line in said if "waiting for data" in line]
    assert len(lines) == 3, "16 patches of 5 cases"
    assert lines[0].startswith("train    epoch 1: ")
    assert result.augment_percent > 5
    last = json.loads(given.folder.history.read_text().splitlines()[-1])
    assert last["augment_percent"] == result.augment_percent
