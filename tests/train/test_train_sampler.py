"""Which patches are drawn."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from medseg.train import prefetch
from medseg.train.prefetch import Prefetch
from medseg.train.sampler import (
    IGNORED,
    Sampler,
    Sampling,
    corner_around,
    forced_foreground,
    foreground_voxel,
    random_corner,
)


def sampling(**changes: object) -> Sampling:
    return Sampling(**{"patch_size": (16, 16, 16), "batch_size": 2, "foreground": 0.5, "seed": 1, **changes})  # type: ignore[arg-type]


def test_a_batch_depends_on_seed_and_step_alone(ball: Callable) -> None:
    cases = {f"c{i}": ball(i) for i in range(4)}
    first = Sampler(cases, sampling())
    ahead = Sampler(dict(reversed(cases.items())), sampling())
    for step in (9, 2, 5):
        ahead.batch(step)
    for step in range(1, 6):
        a, b = first.batch(step), ahead.batch(step)
        assert a.cases == b.cases
        assert np.array_equal(a.images, b.images)
        assert np.array_equal(a.targets, b.targets)
    other = Sampler(cases, sampling(seed=2)).batch(1)
    assert not np.array_equal(first.batch(1).images, other.images)


def test_shapes_and_types(ball: Callable) -> None:
    batch = Sampler({"a": ball(1)}, sampling(batch_size=3)).batch(1)
    assert batch.images.shape == (3, 1, 16, 16, 16)
    assert batch.images.dtype == np.float32
    assert batch.targets.shape == (3, 16, 16, 16)
    assert batch.targets.dtype == np.uint8


def test_what_lies_beyond_an_image_is_left_out_when_asked(ball: Callable) -> None:
    case = ball(1)
    size = tuple(n + 6 for n in case.shape)
    plain = Sampler({"a": case}, sampling(patch_size=size, batch_size=1)).batch(1)
    judged = Sampler({"a": case}, sampling(patch_size=size, batch_size=1, beyond_image="ignored")).batch(1)
    left_out = judged.targets == IGNORED
    assert np.array_equal(plain.images, judged.images)
    assert np.array_equal(plain.targets[~left_out], judged.targets[~left_out])
    assert (~left_out).sum() == np.prod(case.shape)
    assert set(np.unique(plain.targets[left_out])) == {0}
    inside = sampling(patch_size=(8, 8, 8), beyond_image="ignored")
    assert IGNORED not in Sampler({"a": case}, inside).batch(1).targets


def test_patches_reach_beyond_the_case_by_its_margin_and_no_farther() -> None:
    rng = np.random.default_rng(0)
    corners = np.array([random_corner(rng, (40, 20, 12), (16, 22, 24), 4) for _ in range(400)])
    assert corners.min(axis=0).tolist() == [-4, -4, -6]
    assert corners.max(axis=0).tolist() == [28, 2, -6], (
        "a case smaller than the patch by more lies in its middle"
    )
    assert corner_around(np.array([0, 19, 3]), (40, 20, 12), (16, 22, 24), 4).tolist() == [-4, 2, -6]


def test_every_case_is_seen_equally_often(ball: Callable) -> None:
    sampler = Sampler({f"c{i}": ball(i) for i in range(5)}, sampling(batch_size=2))
    seen = Counter(name for step in range(1, 11) for name in sampler.batch(step).cases)
    assert set(seen.values()) == {4}
    assert sampler.epoch(10) == 4.0


@pytest.mark.parametrize(("size", "share"), [(1, 0.33), (2, 0.33), (9, 0.5), (3, 1.0), (2, 0.0)])
def test_the_share_of_foreground_patches_is_met_for_any_batch_size(size: int, share: float) -> None:
    rng = np.random.default_rng(0)
    flags = [forced_foreground(rng, size, share) for _ in range(3000)]
    assert np.mean(flags) == pytest.approx(share, abs=0.02)
    assert all(flag == sorted(flag) for flag in flags)


def test_classes_are_drawn_evenly_however_rare_they_are() -> None:
    voxels = {0: np.zeros((1000, 3), int), 4: np.full((3, 3), 7), 5: np.zeros((0, 3), int)}
    rng = np.random.default_rng(0)
    rare = [bool(foreground_voxel(rng, voxels)[0] == 7) for _ in range(2000)]
    assert np.mean(rare) == pytest.approx(0.5, abs=0.05)
    assert foreground_voxel(rng, {5: np.zeros((0, 3), int)}) is None


def test_a_foreground_patch_holds_its_voxel_and_stays_inside(ball: Callable) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        voxel = rng.integers(0, (30, 40, 10))
        corner = corner_around(voxel, (30, 40, 10), (16, 16, 16))
        assert ((corner <= voxel) & (voxel < corner + 16)).all()
        assert (corner[:2] >= 0).all()
        assert (corner[:2] + 16 <= (30, 40)).all()
        assert corner[2] == -3  # a case of 10 voxels is centred in 16: 3 before, 3 after


def test_random_corners_reach_both_borders() -> None:
    rng = np.random.default_rng(0)
    corners = {int(random_corner(rng, (20,), (16,))[0]) for _ in range(200)}
    assert corners == {0, 1, 2, 3, 4}


def test_every_patch_has_foreground_when_that_is_asked_for(ball: Callable) -> None:
    sampler = Sampler({"a": ball(1, n=48)}, sampling(foreground=1.0))
    assert all((sampler.batch(step).targets == 1).any((1, 2, 3)).all() for step in range(1, 20))


def test_a_case_without_foreground_gives_random_patches(ball: Callable) -> None:
    empty = ball(1)
    empty.target[:] = 0
    assert (Sampler({"a": empty}, sampling(foreground=1.0)).batch(1).targets == 0).all()


def test_a_patch_without_any_labelled_voxel_is_exchanged(ball: Callable) -> None:
    sparse = ball(1, n=64)
    sparse.target[:] = IGNORED
    sparse.target[60:62, 60:62, 60:62] = 1
    sampler = Sampler({"a": sparse}, sampling(foreground=0.0))
    assert all((sampler.batch(step).targets == 1).any() for step in range(1, 10))


def test_an_error_names_the_case(ball: Callable) -> None:
    broken = ball(1)
    broken.read_image = lambda low, high: 1 / 0
    with pytest.raises(ZeroDivisionError) as caught:
        Sampler({"case-7": broken}, sampling()).batch(1)
    assert "case-7" in "".join(caught.value.__notes__)


def test_batches_are_made_ahead_in_order_and_the_wait_is_measured() -> None:
    import time

    def slow(step: int) -> int:
        time.sleep(0.02)
        return step

    with Prefetch(slow, 4) as batches:
        found = [item for item, _ in zip(batches, range(5))]
    assert found == [4, 5, 6, 7, 8]
    assert 0.02 < batches.waited < 1.0
    assert not batches._thread.is_alive()


def test_a_reader_that_hangs_is_named_and_a_wish_to_stop_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hangs, said, asked = threading.Event(), list[str](), list[int]()

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 3

    monkeypatch.setattr(prefetch, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(prefetch, "STALLED_SECONDS", 0.0)
    monkeypatch.setattr(prefetch, "LEAVE_SECONDS", 0.0)
    monkeypatch.setattr(prefetch, "say", said.append)
    with Prefetch(
        lambda step: hangs.wait(), 1, stop=stop, doing=lambda: "reading case c7 for step 1"
    ) as batches:
        assert list(batches) == []
    hangs.set()
    assert len(asked) == 4
    assert "no batch for" in said[0]
    assert said[0].endswith("reading case c7 for step 1")


def test_the_sampler_says_what_it_reads(ball: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    case, heard = ball(1), list[str]()
    sampler, read = Sampler({"c1": case}, sampling(batch_size=1)), case.read_target

    def listening(*box: object) -> np.ndarray:
        heard.append(sampler.in_words())
        return read(*box)

    monkeypatch.setattr(case, "read_target", listening)
    sampler.batch(6)
    assert heard == ["reading case c1 for step 6; does the disk of the prepared cases still answer?"]


def test_an_error_in_the_reading_thread_reaches_the_loop() -> None:
    def fail(step: int) -> int:
        raise ValueError(f"at {step}")

    with pytest.raises(ValueError, match="at 3"), Prefetch(fail, 3) as batches:
        next(iter(batches))


def test_the_reading_thread_ends_while_its_queue_is_full() -> None:
    with Prefetch(lambda step: step, 1) as batches:
        pass
    assert not batches._thread.is_alive()
