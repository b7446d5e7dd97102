"""Random changes: replayable from their record, label and image move together, 2D and 3D, sides are respected."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.config import IntensityPlan, Plan
from medseg.core import UserError
from medseg.core.segmentation import ClassInfo
from medseg.ingest.augment.artefacts import MONAI_NAMES
from medseg.ingest.augment.build import build_augmenter, entries_of, ranges_of
from medseg.ingest.augment.flip import Flip
from medseg.ingest.augment.frame import frame_of
from medseg.ingest.augment.gamma import Gamma
from medseg.ingest.augment.matrices import gaussian
from medseg.ingest.augment.rotate import Rotate
from medseg.ingest.augment.table import LIMITS, PRESETS, PROBABILITIES, TRANSFORMS
from medseg.ingest.augment.warp import warp
from medseg.train.devices import threads

OWN = [name for name in TRANSFORMS if name not in MONAI_NAMES]


def _plan(dims=3, mirror=(0, 1, 2), spacing=None):
    return Plan(dims=dims, in_channels=2, classes=[], out_channels=2, spacing_mm=spacing,
                intensity=[IntensityPlan(scheme="none")] * 2, patch_size=[16] * dims, batch_size=2,
                mirror_axes=[a for a in mirror if a < dims])  # fmt: skip


def _batch(dims=3, edge=20, regions=False):
    """Images whose first channel is the label itself, softened: whatever moves one must move the other."""
    axes = np.meshgrid(*(np.linspace(-1, 1, edge + a) for a in range(dims)), indexing="ij")
    ball = sum((x - 0.1 * k) ** 2 for k, x in enumerate(axes)) < 0.4
    label = torch.from_numpy(ball.astype(np.uint8))
    image = torch.stack([label.float(), torch.from_numpy(axes[0].astype(np.float32))])
    target = torch.stack([label, 1 - label]) if regions else label
    return torch.stack([image, image]), torch.stack([target, target])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", OWN)
def test_every_change_replays_exactly_from_its_record(name, dims):
    images, targets = _batch(dims)
    augmenter = build_augmenter({name: 1.0}, _plan(dims))
    drawn = augmenter.draw(images, np.random.default_rng(3))
    first, again = augmenter.apply(images, targets, drawn), augmenter.apply(images, targets, drawn)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    called = augmenter(images, targets, np.random.default_rng(3))
    assert all(torch.equal(a, b) for a, b in zip(first, called))
    assert first[0].shape == images.shape
    assert (first[1].shape, first[1].dtype) == (targets.shape, torch.uint8)
    assert torch.isfinite(first[0]).all()


@pytest.mark.parametrize("name", OWN)
def test_what_is_handed_in_is_not_altered(name):
    images, targets = _batch()
    before = images.clone(), targets.clone()
    for seed in range(3):
        build_augmenter({name: 1.0}, _plan())(images, targets, np.random.default_rng(seed))
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("name", ["rotate", "scale", "shear", "elastic", "flip"])
def test_image_and_label_move_together(name, dims, regions):
    images, targets = _batch(dims, regions=regions)
    for seed in range(4):
        x, y = build_augmenter({name: 1.0}, _plan(dims, spacing=[1.0, 2.0, 1.5][:dims]))(
            images, targets, np.random.default_rng(seed)
        )
        labels = y[:, 0] if regions else y
        assert ((x[:, 0] > 0.5) == (labels == 1)).float().mean() > 0.985
        if regions:
            assert ((y[:, 0] + y[:, 1]) == 1).all()


@pytest.mark.parametrize("name", ["rotate", "scale", "shear", "elastic", "flip"])
def test_spatial_changes_do_change_something(name):
    images, targets = _batch()
    x, _ = build_augmenter({name: 1.0}, _plan())(images, targets, np.random.default_rng(1))
    assert not torch.equal(x, images)


def test_nothing_is_mirrored_left_right_where_classes_have_sides():
    frame = frame_of(_plan(mirror=(1, 2)), (8, 8, 8), 1)
    drawn = [Flip.draw(np.random.default_rng(seed), frame, each=1.0) for seed in range(5)]
    assert {record.axes for record in drawn} == {(1, 2)}


def _sided_plan(names, regions=False, background=True):
    classes = [
        ClassInfo(name, n + 1, (0, 0, 0), laterality=next((s for s in ("left", "right") if s in name), None))
        for n, name in enumerate(names)
    ]
    return _plan(mirror=(1, 2)).model_copy(
        update={"classes": [c.as_json() for c in classes], "overlapping": regions, "background": background}
    )


@pytest.mark.parametrize("regions", [False, True])
def test_swapping_sides_mirrors_the_patient_and_exchanges_left_and_right(regions):
    target = torch.zeros(1, 6, 4, 4, dtype=torch.uint8)
    target[:, 4:], target[:, 0], target[:, 2] = 1, 2, 3  # right lung, left lung, heart
    if regions:
        target = torch.stack([target == k for k in (1, 2, 3)], dim=1).to(torch.uint8)
    image = torch.arange(6.0).reshape(1, 1, 6, 1, 1).expand(1, 2, 6, 4, 4)
    plan = _sided_plan(["right lung", "left lung", "heart"], regions)
    turned, swapped = build_augmenter({"swap_sides": 1.0}, plan)(image, target)
    assert torch.equal(turned, image.flip(2))
    found = [swapped[0, k - 1].bool() if regions else swapped[0] == k for k in (1, 2, 3)]
    assert [f.any(-1).any(-1).nonzero().flatten().tolist() for f in found] == [[5], [0, 1], [3]]


def test_sides_are_not_swapped_where_a_class_has_no_partner():
    images, targets = _batch()
    augmenter = build_augmenter({"swap_sides": 1.0}, _sided_plan(["left atrium", "right lung", "left lung"]))
    same = augmenter(images, targets)
    assert torch.equal(same[0], images)
    assert torch.equal(same[1], targets)


@pytest.mark.parametrize("plane", [(0, 1), (0, 2), (1, 2)])
def test_a_quarter_turn_equals_the_exact_turn_of_the_array(plane):
    image = torch.rand(1, 9, 9, 9)
    target = (image[0] > 0.5).to(torch.uint8)
    x, y = warp(image, target, [Rotate(((*plane, 90.0),))], frame_of(_plan(), (9, 9, 9), 1))
    exact = [torch.rot90(image, k, [plane[0] + 1, plane[1] + 1]) for k in (1, 3)]
    assert min(float((x - e).abs().max()) for e in exact) < 1e-4
    assert any(torch.equal(y, torch.rot90(target, k, plane)) for k in (1, 3))


@pytest.mark.parametrize("shape", [(8, 6, 10), (7, 6, 10), (8, 10)])
def test_the_number_of_threads_changes_no_bit_of_a_warp(shape):
    image, target = torch.randn(2, *shape), torch.randint(0, 3, shape, dtype=torch.uint8)
    turn = [Rotate(((0, 1, 20.0),))]
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(warp(image, target, turn, frame_of(_plan(), shape, 1)))
    assert all(torch.equal(one, two) for one, two in zip(*found))


def test_rotation_happens_in_millimetres_and_not_in_voxels():
    length = torch.zeros(1, 41, 41, 21)
    length[:, 5:36, 20, 10] = 1  # 30 mm along the first axis, at 1 x 1 x 2 mm
    turned, _ = warp(length, length[0].to(torch.uint8), [Rotate(((0, 2, 90.0),))], frame_of(
        _plan(spacing=[1.0, 1.0, 2.0]), (41, 41, 21), 1))  # fmt: skip
    along = turned[0, 20, 20]
    assert 14 <= int((along > 0.4).sum()) <= 16


def test_a_flat_patch_is_turned_in_its_plane_only():
    frame = frame_of(_plan(), (64, 64, 16), 1)
    assert frame.coarse == 2
    assert {turn[:2] for turn in Rotate.draw(np.random.default_rng(0), frame).turns} == {(0, 1)}


def test_pictures_with_an_up_and_a_down_are_turned_a_little_only():
    rng = np.random.default_rng(0)
    upright = frame_of(_plan(2, mirror=(1,)), (32, 32), 3)
    angles = [Rotate.draw(rng, upright, degrees=15.0).turns[0][2] for _ in range(50)]
    assert max(map(abs, angles)) <= 15
    free = frame_of(_plan(2, mirror=(0, 1)), (32, 32), 3)
    assert max(abs(Rotate.draw(rng, free).turns[0][2]) for _ in range(50)) > 90


def test_blur_is_the_blur_of_scipy_and_keeps_the_mean():
    from scipy.ndimage import gaussian_filter1d

    line = np.random.default_rng(0).normal(size=40)
    ours = gaussian(40, 0.8) @ line
    assert np.abs(ours - gaussian_filter1d(line, 0.8, mode="reflect")).max() < 1e-5


def test_gamma_keeps_mean_and_spread_and_inverting_bends_the_other_way():
    image = torch.rand(1, 12, 12, 12)
    plain, inverted = Gamma((2.0,), False)(image), Gamma((2.0,), True)(image)
    for out in (plain, inverted):
        assert out.mean().item() == pytest.approx(image.mean().item(), abs=1e-4)
        assert out.std().item() == pytest.approx(image.std().item(), abs=1e-4)
    middle = (image - 0.5).abs() < 0.05
    assert plain[middle].mean() < inverted[middle].mean()


def test_a_truncated_field_of_view_is_background_outside_or_ignored_where_there_is_none():
    images, targets = torch.rand(1, 2, 12, 12, 12), torch.ones(1, 12, 12, 12, dtype=torch.uint8)
    for background, outside in ((True, 0), (False, 255)):
        plan = _plan().model_copy(update={"background": background})
        augmenter = build_augmenter({"truncate": {"probability": 1, "share": [0.3, 0.4], "each": 1.0}}, plan)
        beyond = set()
        for seed in range(8):
            x, y = augmenter(images, targets, np.random.default_rng(seed))
            assert set(y.unique().tolist()) == {1, outside}
            beyond |= set(x[0, 0][y[0] == outside].tolist())
            assert torch.equal(x[0, 0][y[0] == 1], images[0, 0][y[0] == 1])
        assert beyond == {0.0, images[0, 0].min().item()}, (
            "as windows beyond a scan have it, and as scanners do"
        )


def test_padding_is_left_out_when_asked_but_what_a_scanner_filled_in_is_background():
    images, targets = torch.rand(1, 1, 12, 12, 12) + 0.1, torch.ones(1, 12, 12, 12, dtype=torch.uint8)
    spec = {"truncate": {"probability": 1, "share": [0.3, 0.4], "each": 1.0}}
    augmenter = build_augmenter(spec, _plan(), beyond_image="ignored")
    found = set()
    for seed in range(8):
        x, y = augmenter(images, targets, np.random.default_rng(seed))
        outside = (set(y.unique().tolist()) - {1}).pop()
        found.add(outside)
        assert (x[0, 0][y[0] == outside] == 0).all() == (outside == 255)
    assert found == {0, 255}


def test_a_constant_patch_survives_every_change():
    images, targets = torch.zeros(1, 2, 8, 8, 8), torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    every = build_augmenter(dict.fromkeys(OWN, 1.0), _plan())
    for seed in range(3):
        x, _ = every(images, targets, np.random.default_rng(seed))
        assert torch.isfinite(x).all()


def test_each_happens_as_often_as_it_should():
    augmenter = build_augmenter("default", _plan())
    rng, images = np.random.default_rng(0), torch.zeros(2000, 2, 4, 4, 4)
    counts: dict[str, int] = {}
    for records in augmenter.draw(images, rng):
        for record in records:
            counts[type(record).__name__] = counts.get(type(record).__name__, 0) + 1
    for kind, name in (("Rotate", "rotate"), ("Noise", "noise"), ("LowResolution", "low_resolution")):
        assert counts[kind] / 2000 == pytest.approx(PROBABILITIES[name], abs=0.03)
    assert counts["Gamma"] / 2000 == pytest.approx(0.4, abs=0.04)


def test_every_range_of_a_change_has_limits_that_hold_its_default():
    for name in TRANSFORMS:
        numbers = {key: d for key, d in ranges_of(name).items() if not isinstance(d, bool)}
        for key, default in numbers.items():
            low, high = LIMITS[key]
            assert low <= np.min(default) <= np.max(default) <= high


def test_presets_name_known_changes_and_none_does_nothing():
    assert all(set(preset) <= set(TRANSFORMS) for preset in PRESETS.values())
    assert set(PROBABILITIES) == set(TRANSFORMS)
    images, targets = _batch()
    x, y = build_augmenter("none", _plan())(images, targets)
    assert torch.equal(x, images)
    assert torch.equal(y, targets)


def test_a_preset_can_be_changed_by_name():
    entries = {
        e.name: e
        for e in entries_of({"preset": "light", "noise": {"probability": 0.9, "sd": [0, 1]}, "blur": 0.5})
    }
    assert entries["noise"].ranges == {"sd": (0, 1)}
    assert (entries["noise"].probability, entries["blur"].probability) == (0.9, 0.5)
    assert "elastic" not in entries


@pytest.mark.parametrize("name", list(MONAI_NAMES))
def test_artefacts_of_monai_run_and_replay(name):
    images, targets = _batch()
    augmenter = build_augmenter({name: 1.0}, _plan())
    first, _ = augmenter(images, targets, np.random.default_rng(1))
    again, _ = augmenter(images, targets, np.random.default_rng(1))
    assert first.shape == images.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, images)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"nois": {}}, "no random change named 'nois', did you mean noise"),
        ("defualt", "no preset 'defualt', did you mean default"),
        ({"noise": {"probability": 2}}, "probability is 2"),
        ({"noise": {"sdd": [0, 1]}}, "no range 'sdd', did you mean sd"),
        ({"noise": {"sd": [1, 0]}}, r"sd: expected \[low, high\], got \[1, 0\]"),
        ({"rotate": {"degrees": "many"}}, "degrees: expected a number, got 'many'"),
        ({"flip": "yes"}, "expected a probability"),
        ({"flip": {"each": 5}}, "each is 5"),
        ({"scale": {"factor": [0, 1]}}, r"factor is \[0, 1\]"),
        ({"blur": {"sigma": [0, 1]}}, r"sigma is \[0, 1\]"),
        ({"noise": {"sd": [-1, 1]}}, r"sd is \[-1, 1\]"),
        ({"noise": {"sd": [0, float("inf")]}}, r"sd is \[0, inf\]"),
        ({"rotate": {"degrees": float("nan")}}, "degrees is nan"),
        ({"gamma": {"exponent": [-3, -2]}}, r"exponent is \[-3, -2\]"),
        ({"elastic": {"points": [1, 4]}}, r"points is \[1, 4\]"),
        ({"truncate": {"share": [0, 2]}}, r"share is \[0, 2\]"),
        ({"gibbs": {"alpah": 0.5}}, "no range 'alpah', did you mean alpha"),
        ({"gibbs": {"alpha": 5}}, "MONAI's RandGibbsNoise refuses alpha: 5"),
    ],
)
def test_mistakes_are_said_with_the_nearest_name_or_the_limits(spec, message):
    with pytest.raises(UserError, match=message):
        build_augmenter(spec, _plan())
