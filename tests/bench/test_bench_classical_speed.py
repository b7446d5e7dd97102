"""Seconds of the classical methods beside the library's own call: what is timed, and that both do the same work."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from medseg.bench.classical import fit, measure, speed
from medseg.bench.classical.peers import PEERS
from medseg.bench.classical.recipe import load_recipe
from medseg.zoo.build import find


def test_speed_is_of_processor_time_beside_the_librarys_own_call(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = load_recipe().data_sets
    found = measure.measure("threshold-otsu", sets["speed-2d"], None)
    assert found["library"] == "skimage.filters.threshold_otsu"
    assert found["shape"] == [3, 321, 481]
    assert found["cpu_seconds"] >= 0
    assert found["ratio"] > 0
    assert (found["own"], found["same_work"]) == (True, {})
    assert found["turns"] >= 2
    assert "library" not in measure.measure("threshold-fixed", sets["speed-2d"], None)


def test_two_calls_take_turns_and_the_first_of_a_turn_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "PAIRS", 3)
    monkeypatch.setattr(speed, "TURN_SECONDS", 0.0)
    called: list[str] = []
    ours, theirs = speed.in_turns(lambda: called.append("ours"), lambda: called.append("theirs"))
    assert called == ["ours", "theirs", "theirs", "ours", "ours", "theirs", "theirs", "ours"]
    assert (len(ours), len(theirs)) == (3, 3)
    called.clear()
    monkeypatch.setattr(speed, "PAIRS_SECONDS", -1.0)
    assert len(speed.in_turns(lambda: called.append("ours"), lambda: called.append("theirs"))[0]) == 2


def test_a_call_too_quick_for_the_clock_is_repeated_within_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "PAIRS", 2)
    ticks = iter(range(1000))
    clock = SimpleNamespace(
        perf_counter=lambda: next(ticks) * 0.025, process_time=lambda: 0.001 * len(called)
    )
    monkeypatch.setattr(speed, "time", clock)
    called: list[str] = []
    ours, theirs = speed.in_turns(lambda: called.append("ours"), lambda: called.append("theirs"))
    assert called.count("ours") == called.count("theirs") == 1 + 2 * 4  # 0.1 s hold four calls of 25 ms
    assert ours == pytest.approx([0.001, 0.001])
    assert theirs == pytest.approx([0.001, 0.001])


def test_with_the_arguments_of_the_same_work_a_method_gives_what_the_library_gives() -> None:
    from medseg.zoo.build import build

    rng = np.random.default_rng(0)
    coarse = rng.uniform(20, 220, (1, 6, 6))
    image = np.repeat(np.repeat(coarse, 8, 1), 8, 2) + rng.normal(0, 2, (1, 48, 48))
    for name, peer in PEERS.items():
        if peer.own or name in ("threshold-bimodal", "cluster-kmeans", "superpixel-slic"):
            continue
        method = build(name, dims=2, in_channels=1, classes=2)
        ours = np.asarray(method.segment(image, (1.0, 1.0), **peer.arguments))
        theirs = np.asarray(peer.call(image, (1.0, 1.0))).astype(np.uint8)
        agreement = max((ours == theirs).mean(), (ours == 1 - theirs).mean())
        assert agreement > 0.97, f"{name}: {agreement}"


def test_entries_of_quality_stay_when_only_the_timing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe()
    before = {name: fit.key_of(recipe, name, "threshold-otsu") for name in ("nuclei", "speed-2d")}
    monkeypatch.setattr(fit, "TIMING", (*fit.TIMING, "bench/classical/table.py"))
    assert fit.key_of(recipe, "nuclei", "threshold-otsu") == before["nuclei"]
    assert fit.key_of(recipe, "speed-2d", "threshold-otsu") != before["speed-2d"]


def test_every_library_call_is_one_that_the_library_has() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.uniform(20, 220, (1, 6, 6))
    smooth = np.repeat(np.repeat(coarse, 6, 1), 6, 2) + rng.normal(0, 2, (1, 36, 36))
    for name, peer in PEERS.items():
        assert find(name).kind == "classical"
        if name != "threshold-bimodal":
            assert np.asarray(peer.call(smooth, (1.0, 1.0))).size == 36 * 36, name
