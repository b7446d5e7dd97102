"""Thresholds against the exhaustive optimum of their own criterion, and against shading and bad arguments."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from medseg.core.case import Case
from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.classical.thresholds.bimodal import middle, valley
from medseg.zoo.classical.thresholds.iterative import resting_threshold
from medseg.zoo.classical.thresholds.multi_otsu import level_thresholds
from medseg.zoo.classical.thresholds.optimal import minimum_error_threshold
from medseg.zoo.classical.thresholds.submean import block_thresholds
from medseg.zoo.rows.classical_thresholds import ROWS

GLOBAL = [
    "threshold-bimodal",
    "threshold-iterative",
    "threshold-multi-otsu",
    "threshold-optimal",
    "threshold-max-entropy",
    "threshold-fuzzy",
    "threshold-li",
    "threshold-moments",
    "threshold-shanbhag",
    "histogram-bundling",
]
"""Those that put a threshold between two modes; the triangle and Yen's are for one mode and a tail."""


def levels(seed: int = 0, size: int = 4000) -> np.ndarray:
    """Whole grey values 0 ... 63, two modes, (N, 1), both ends taken."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(18, 5, 3 * size // 4), rng.normal(46, 4, size // 4)])
    return np.concatenate([values.round().clip(0, 63), [0, 63]])[:, None]


def run(name: str, image: np.ndarray, **parameters: object) -> np.ndarray:
    """Labels of a grey image of two or three axes."""
    method = build(name, dims=image.ndim, in_channels=1, classes=2)
    return method.segment(image[None], (1.0,) * image.ndim, **parameters)


def ball(dims: int) -> np.ndarray:
    side = {2: 80, 3: 24}[dims]
    grid = np.indices((side,) * dims) - side / 2
    return (grid**2).sum(axis=0) < (side / 3) ** 2


def exhaustive(grey: np.ndarray, cost: object) -> set[int]:
    """The number of voxels below each of the best thresholds of a cost (p below, p above) over whole grey values."""
    counts = np.bincount(grey.ravel().astype(int), minlength=64) / grey.size
    costs = [cost(counts, t) for t in range(63)]
    best = min(c for c in costs if np.isfinite(c))
    return {int((grey <= t).sum()) for t, c in enumerate(costs) if c <= best + 1e-9}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", GLOBAL)
def test_a_bright_object_in_noise_is_found(name: str, dims: int) -> None:
    truth = ball(dims)
    image = 100 * truth + np.random.default_rng(0).normal(0, 8, truth.shape)
    options = {"levels": 2} if name == "threshold-multi-otsu" else {}
    assert ((run(name, image, **options) == 1) == truth).mean() > 0.95


@pytest.mark.parametrize("card", [c for c in ROWS if c.name != "threshold-fixed"], ids=lambda c: c.name)
def test_a_constant_image_is_background(card: object) -> None:
    assert not run(card.name, np.full((6, 7), 5.0)).any()


@pytest.mark.parametrize(
    "name", sorted({*GLOBAL, "threshold-yen"} - {"threshold-multi-otsu", "histogram-bundling"})
)
def test_a_dark_object_is_what_is_not_bright(name: str) -> None:
    image = 100 * ball(2) + np.random.default_rng(0).normal(0, 8, (80, 80))
    assert np.array_equal(run(name, image, dark=True), 1 - run(name, image))


def test_a_fixed_threshold_equals_itk_and_wants_a_bound() -> None:
    import SimpleITK as sitk

    hu = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    expected = sitk.GetArrayFromImage(sitk.BinaryThreshold(sitk.GetImageFromArray(hu), -190, -30, 1, 0))
    assert np.array_equal(run("threshold-fixed", hu, low=-190, high=-30), expected)
    with pytest.raises(UserError, match="neither `low` nor `high` is given") as caught:
        run("threshold-fixed", hu)
    assert "low: 200 (HU)" in caught.value.hint
    with pytest.raises(UserError, match="low 5 is above high 3"):
        run("threshold-fixed", hu, low=5, high=3)


def test_the_valley_lies_at_the_dip_and_the_middle_between_the_peaks() -> None:
    rng = np.random.default_rng(0)
    grey = np.concatenate([rng.normal(40, 6, 9000), rng.normal(120, 20, 9000)])[None]
    density = [
        np.exp(-((t - 40) ** 2) / 72) / 6 + np.exp(-((t - 120) ** 2) / 800) / 20 for t in range(40, 121)
    ]
    assert valley(grey, 256) == pytest.approx(40 + int(np.argmin(density)), abs=6)
    assert middle(grey, 256) == pytest.approx(80, abs=6)


@pytest.mark.parametrize("rule", ["valley", "middle"])
def test_one_peak_has_no_valley(rule: str) -> None:
    tent = np.repeat(np.arange(256.0), 1 + 128 - np.abs(np.arange(256) - 128))[None]
    with pytest.raises(UserError, match="histogram of 256 bins") as caught:
        run("threshold-bimodal", tent, rule=rule)
    assert "threshold-otsu" in caught.value.hint


@pytest.mark.parametrize("seed", range(4))
def test_the_iteration_rests_where_the_literal_iteration_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grey = np.concatenate([rng.gamma(2, 15, 5000), rng.normal(150, 20, 800 * (seed + 1))])
    threshold, before = float(grey.mean()), np.inf
    while abs(threshold - before) > 1e-6:
        before, threshold = threshold, (grey[grey > threshold].mean() + grey[grey <= threshold].mean()) / 2
    assert resting_threshold(grey) == pytest.approx(threshold, abs=2 * np.ptp(grey) / 256)


@pytest.mark.parametrize("rule", ["mean", "gaussian", "niblack", "sauvola"])
def test_local_thresholds_read_print_in_a_shadow_where_otsu_does_not(rule: str) -> None:
    shade = np.linspace(40, 250, 96)[None].repeat(96, axis=0)
    ink = np.zeros((96, 96), dtype=bool)
    ink[8::12] = ink[9::12] = True
    image = np.where(ink, 0.6 * shade, shade)
    found = run("threshold-adaptive", image, rule=rule, window_mm=25, dark=True) == 1
    otsu = run("threshold-otsu", image, dark=True) == 1
    recall, false = found[ink].mean(), found[~ink].mean()
    assert recall > 0.95
    assert false < (0.05 if rule == "sauvola" else 0.5)
    assert otsu[~ink].mean() > 0.25


def test_local_windows_are_in_millimetres() -> None:
    image = np.random.default_rng(0).normal(0, 1, (20, 30, 10))
    method = build("threshold-adaptive", dims=3, in_channels=1, classes=2)
    from skimage.filters import threshold_local

    expected = image > threshold_local(image, (9, 9, 3), method="mean")
    found = method.segment(image[None], (1.0, 1.0, 3.0), rule="mean", window_mm=9)
    assert np.array_equal(found == 1, expected)


def test_an_unknown_rule_is_named_with_those_there_are() -> None:
    with pytest.raises(UserError, match="rule is 'sauvolla', did you mean sauvola") as caught:
        run("threshold-adaptive", np.eye(8), rule="sauvolla")
    assert "mean, gaussian, niblack, sauvola" in caught.value.hint
    with pytest.raises(UserError, match="window_mm is -3"):
        run("threshold-adaptive", np.eye(8), window_mm=-3)


def test_two_thresholds_are_the_exhaustive_maximum() -> None:
    rng = np.random.default_rng(1)
    grey = np.concatenate([rng.normal(m, 3, 500) for m in (10, 30, 52)]).round().clip(0, 63)

    def between(a: float, b: float) -> float:
        parts = [grey[grey <= a], grey[(grey > a) & (grey <= b)], grey[grey > b]]
        return sum(p.size * (p.mean() - grey.mean()) ** 2 for p in parts if p.size)

    best = max(between(a, b) for a in range(60) for b in range(a + 1, 63))
    bins = int(np.ptp(grey)) + 1
    assert between(*level_thresholds(grey, 3, bins)) == pytest.approx(best, rel=1e-9)


def test_levels_need_as_many_grey_values() -> None:
    with pytest.raises(UserError, match="2 grey values in 256 bins, too few for 3 levels"):
        run("threshold-multi-otsu", np.eye(8))
    with pytest.raises(UserError, match="levels is 6"):
        run("threshold-multi-otsu", np.eye(8), levels=6)


def test_block_thresholds_are_the_means_of_blocks() -> None:
    grey = np.random.default_rng(0).normal(0, 1, (10, 13, 7))
    found = block_thresholds(grey, 3, interpolate=False)
    edges = [np.linspace(0, n, 4).round().astype(int) for n in grey.shape]
    for index in np.ndindex(3, 3, 3):
        block = tuple(slice(e[i], e[i + 1]) for e, i in zip(edges, index, strict=True))
        assert np.allclose(found[block], grey[block].mean())
    assert np.allclose(block_thresholds(grey, 1, interpolate=True), grey.mean())


def test_interpolated_block_thresholds_follow_a_shade() -> None:
    shade = np.linspace(0, 200, 96)[:, None].repeat(96, axis=1)
    spots = np.zeros((96, 96), dtype=bool)
    spots[4::8, 4::8] = True
    image = shade + 60 * spots
    found = run("threshold-submean", image, blocks=12) == 1
    inner = np.s_[8:88, 8:88]
    assert found[inner][spots[inner]].all()
    assert run("threshold-otsu", image)[inner][~spots[inner]].mean() > 0.4


@pytest.mark.parametrize("seed", range(3))
def test_the_minimum_error_threshold_is_the_exhaustive_minimum(seed: int) -> None:
    grey = levels(seed)
    inside = np.arange(64.0)

    def cost(p: np.ndarray, t: int) -> float:
        total = 1.0
        for part in (slice(0, t + 1), slice(t + 1, 64)):
            share = p[part].sum()
            if share == 0:
                return np.inf
            mean = (p[part] * inside[part]).sum() / share
            # A class of one grey value is one bin wide.
            variance = (p[part] * (inside[part] - mean) ** 2).sum() / share + (63 / 64) ** 2 / 12
            total += share * np.log(variance) - 2 * share * np.log(share)
        return total

    assert int((grey <= minimum_error_threshold(grey, 64)).sum()) in exhaustive(grey, cost)


def test_minimum_error_parts_a_wide_from_a_narrow_class_better_than_otsu() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([False, True], [18000, 2000])[None]
    image = np.where(truth, rng.normal(60, 3, truth.shape), rng.normal(20, 12, truth.shape))
    errors = {n: ((run(n, image) == 1) != truth).sum() for n in ("threshold-optimal", "threshold-otsu")}
    assert errors["threshold-optimal"] < 0.5 * errors["threshold-otsu"]


def labelled(grey: np.ndarray, truth: np.ndarray) -> Case:
    """A case in memory; only arrays are looked at."""
    image, label = SimpleNamespace(array=grey[None]), SimpleNamespace(labels=truth.astype(int))
    return Case("one", "one", lambda: image, lambda: label)


def test_fitting_finds_the_threshold_of_the_best_dice() -> None:
    rng, truth = np.random.default_rng(0), ball(2)
    greys = [
        np.where(truth, rng.normal(30, 10, truth.shape), rng.normal(60, 10, truth.shape)) for _ in range(3)
    ]
    method = build("threshold-optimal", dims=2, in_channels=1, classes=2).method
    learned = method.fit([labelled(grey, truth) for grey in greys])
    assert learned["dark"]

    def dice(threshold: float) -> float:
        return float(
            np.mean(
                [2 * (g <= threshold)[truth].sum() / ((g <= threshold).sum() + truth.sum()) for g in greys]
            )
        )

    assert dice(learned["threshold"]) == pytest.approx(
        max(dice(t) for t in np.linspace(0, 100, 800)), abs=0.002
    )
    assert np.array_equal(
        run("threshold-optimal", greys[0], **learned) == 1, greys[0] <= learned["threshold"]
    )
    alone = run("threshold-optimal", greys[0], criterion="minimum-error", threshold=1e6)
    assert np.array_equal(alone, run("threshold-optimal", greys[0]))


def test_fitting_wants_labels_on_the_images_grid() -> None:
    method = build("threshold-optimal", dims=2, in_channels=1, classes=2).method
    assert method.fit([]) == {}
    assert method.fit([Case("bare", "bare", lambda: SimpleNamespace(array=np.eye(4)[None]))]) == {}
    with pytest.raises(UserError, match=r"the label has shape \(3, 3\), the image \(4, 4\)") as caught:
        method.fit([labelled(np.eye(4), np.eye(3))])
    assert caught.value.where == "case one"


def entropy(p: np.ndarray) -> float:
    share = p[p > 0] / p.sum()
    return float(-(share * np.log(share)).sum())


def kapur(p: np.ndarray, t: int) -> float:
    return -entropy(p[: t + 1]) - entropy(p[t + 1 :]) if p[: t + 1].any() and p[t + 1 :].any() else np.inf


def yen(p: np.ndarray, t: int) -> float:
    parts = p[: t + 1], p[t + 1 :]
    if not all(part.any() for part in parts):
        return np.inf
    return float(sum(np.log((part**2).sum() / part.sum() ** 2) for part in parts))


def huang(p: np.ndarray, t: int) -> float:
    grey, total = np.arange(64.0), 0.0
    for part in (slice(0, t + 1), slice(t + 1, 64)):
        if not p[part].any():
            return np.inf
        mean = np.round((p[part] * grey[part]).sum() / p[part].sum())
        u = 1 / (1 + np.abs(grey[part] - mean) / 63)
        safe = np.clip(u, 1e-12, 1 - 1e-12)
        total += float((p[part] * (-safe * np.log(safe) - (1 - safe) * np.log(1 - safe))).sum())
    return total


def cross(p: np.ndarray, t: int) -> float:
    grey, total = np.arange(64.0), 0.0
    for part in (slice(0, t + 1), slice(t + 1, 64)):
        moment = (p[part] * grey[part]).sum()
        if moment <= 0:
            return np.inf
        total -= float(moment * np.log(moment / p[part].sum()))
    return total


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "cost", "off"),
    [
        ("threshold-max-entropy", kapur, 0),
        ("threshold-yen", yen, 0),
        ("threshold-fuzzy", huang, 1),
        ("threshold-li", cross, 1),
    ],
)
def test_the_threshold_is_the_exhaustive_optimum(name: str, cost: object, off: int, seed: int) -> None:
    grey = levels(seed)
    below = int((run(name, grey, **({} if name == "threshold-li" else {"bins": 64})) == 0).sum())
    best = exhaustive(grey, cost)
    near = {
        int((grey <= t).sum())
        for t in range(64)
        for s in range(-off, off + 1)
        if int((grey <= t + s).sum()) in best
    }
    assert below in near


@pytest.mark.parametrize(
    "name", ["threshold-fuzzy", "threshold-max-entropy", "threshold-moments", "threshold-shanbhag"]
)
@pytest.mark.parametrize("seed", range(4))
def test_the_unit_of_the_grey_values_does_not_matter(name: str, seed: int) -> None:
    """MR is often given in standard deviations round 0, where a step between levels is far below 1."""
    grey = levels(seed)
    scaled = (grey - grey.mean()) / (8 * grey.std())
    assert (run(name, scaled, bins=64) != run(name, grey, bins=64)).mean() < 0.02


def test_moments_are_kept_by_the_two_level_image() -> None:
    grey = levels(0)
    below = (run("threshold-moments", grey, bins=64) == 0).mean()
    m1, m2, m3 = (float((grey**k).mean()) for k in (1, 2, 3))
    # Two values z0 < z1 with shares p0, p1 that have the first three moments: roots of z^2 + c1 z + c0.
    c0 = (m1 * m3 - m2**2) / (m2 - m1**2)
    c1 = (m1 * m2 - m3) / (m2 - m1**2)
    z0, z1 = sorted(np.roots([1, c1, c0]))
    share = (z1 - m1) / (z1 - z0)
    steps = np.bincount(grey.ravel().astype(int)).max() / grey.size
    assert below == pytest.approx(share, abs=steps)


def test_the_triangle_finds_the_foot_of_the_only_peak() -> None:
    rng = np.random.default_rng(0)
    truth = np.zeros((60, 60), dtype=bool)
    truth[20:26, 20:26] = True
    image = rng.normal(10, 2, truth.shape) + truth * rng.uniform(40, 120, truth.shape)
    found = run("threshold-triangle", image) == 1
    assert found[truth].all()
    assert found[~truth].mean() < 0.03
    assert not run("threshold-triangle", image)[image < 12].any()


def test_shanbhag_balances_the_information_of_both_sides() -> None:
    grey = levels(0)

    def gap(p: np.ndarray, t: int) -> float:
        below, above = p[: t + 1].sum(), p[t + 1 :].sum()
        if below == 0 or above == 0:
            return np.inf
        upto, beyond = np.cumsum(p), 1 - np.cumsum(p)
        low = sum(p[i] / below / 2 * -np.log(1 - upto[i - 1] / below / 2) for i in range(1, t + 1))
        high = sum(p[i] / above / 2 * -np.log(1 - beyond[i] / above / 2) for i in range(t + 1, 64))
        return abs(low - high)

    below = int((run("threshold-shanbhag", grey, bins=64) == 0).sum())
    best = exhaustive(grey, gap)
    assert any(
        abs(t - s) <= 1
        for t in range(64)
        for s in range(64)
        if (grey <= t).sum() == below and int((grey <= s).sum()) in best
    )


def test_each_mode_is_a_bundle_and_the_number_comes_from_the_image() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2, 3], 4000)[None]
    image = rng.normal(np.array([20, 60, 110, 180])[truth], 7)
    found = run("histogram-bundling", image)
    assert found.max() == 3
    assert (found == truth).mean() > 0.98
    assert set(np.unique(run("histogram-bundling", image, most=2))) == {0, 1}


def test_a_median_is_no_number_of_bins() -> None:
    with pytest.raises(UserError, match="bins is 1"):
        run("threshold-max-entropy", np.eye(8), bins=1)
    with pytest.raises(UserError, match="entropy is 'tsallis'"):
        run("threshold-max-entropy", np.eye(8), entropy="tsallis")
    with pytest.raises(UserError, match="blocks is 0"):
        run("threshold-submean", np.eye(8), blocks=0)
    with pytest.raises(UserError, match=r"prominence is 1.5"):
        run("histogram-bundling", np.eye(8), prominence=1.5)


def test_renyi_finds_a_threshold_between_the_modes() -> None:
    grey = levels(0)
    assert 0.6 < (run("threshold-max-entropy", grey, entropy="renyi", bins=64) == 0).mean() < 0.9
