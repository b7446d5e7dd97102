"""Decisions of the plan: each follows from the data, stands with its reason, and can be overruled where it acts."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from medseg.config import Pipeline
from medseg.config_plan import load_plan, save_plan
from medseg.core import ClassInfo, Geometry, Image, Segmentation, UserError
from medseg.core.machine import Device
from medseg.ingest.asked import require_grid
from medseg.plan import decide as decide_module
from medseg.plan import grids
from medseg.plan.decide import decide
from medseg.plan.fingerprint import Fingerprint, facts_of
from medseg.zoo.build import find

CLASSES = (ClassInfo("left lung", 1, (0, 0, 0), laterality="left"), ClassInfo("heart", 2, (0, 0, 0)))


@pytest.fixture(autouse=True)
def _known_speed(request, monkeypatch):
    """No measuring of the machine, except where the estimate itself is tested."""
    if "real_one" not in request.node.name:
        monkeypatch.setattr(decide_module, "measured_flops", lambda device: 1e11)


def _pipeline(system="3d-u-net", size="tiny", modality="ct", **sections):
    return Pipeline.model_validate(
        {
            "name": "t",
            "system": {"name": system, "size": size},
            "data": {"modality": modality, **sections.pop("data", {})},
            "compute": {"device": "cpu", "cores": 2},
            **sections,
        }
    )


def _case(name, shape=(60, 50, 20), spacing=(1.0, 1.0, 3.0), value=0, channels=1, unit="mm", inside=None):
    rng = np.random.default_rng(len(name) + value)
    image = rng.integers(-200, 200, (channels, *shape)).astype(np.int16) + value
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(n // 4, n // 2) for n in shape)] = 1
    labels[tuple(slice(n // 2, n // 2 + 3) for n in shape)] = 2
    if inside is not None:
        outside = np.ones(shape, bool)
        outside[inside] = False
        image[:, outside] = 0
    geometry = Geometry.pixels(shape) if unit == "px" else Geometry.from_spacing(shape, spacing)
    return facts_of(name, Image(image, geometry), Segmentation(labels, geometry, CLASSES), CLASSES)


def _plan(pipeline, cases, classes=CLASSES, channels=()):
    fingerprint = Fingerprint(tuple(cases), len(cases))
    cohort = SimpleNamespace(classes=classes, channels=channels)
    return decide(pipeline, cohort, fingerprint, find(pipeline.only_system.name))


def test_every_decision_has_its_reason_and_survives_the_file(tmp_path):
    plan = _plan(_pipeline(), [_case("a"), _case("b")])
    for key in (
        "dims",
        "classes",
        "spacing_mm",
        "intensity",
        "crop",
        "image_order",
        "patch_size",
        "batch_size",
        "mirror_axes",
    ):
        assert plan.reasons[key]
    save_plan(plan, tmp_path / "plan.yaml")
    assert load_plan(tmp_path / "plan.yaml") == plan
    line = next(
        text for text in (tmp_path / "plan.yaml").read_text().splitlines() if text.startswith("crop:")
    )
    assert "# CT: the body" in line


def test_the_same_data_give_the_same_plan_but_for_the_estimate():
    first, again = (_plan(_pipeline(), [_case("a"), _case("b")]) for _ in range(2))
    assert first.model_copy(update={"estimate": {}}) == again.model_copy(update={"estimate": {}})


def test_ct_is_clipped_by_the_foreground_of_all_cases_and_mr_scored_case_by_case():
    cases = [_case("a"), _case("b", value=100)]
    ct = _plan(_pipeline(), cases).intensity[0]
    foreground = np.concatenate([c.foreground[0] for c in cases])
    assert ct.scheme == "ct"
    assert (ct.low, ct.high) == pytest.approx(np.percentile(foreground, (0.5, 99.5)), abs=1)
    assert (ct.shift, ct.scale) == pytest.approx((foreground.mean(), foreground.std()), abs=0.1)
    assert _plan(_pipeline(modality="mr"), cases).intensity[0].scheme == "zscore"


def _empty(name):
    """A case in which nothing was found."""
    geometry = Geometry.from_spacing((30, 30, 30), (1.0, 1.0, 1.0))
    image = np.random.default_rng(1).integers(-900, 300, (1, 30, 30, 30)).astype(np.int16)
    label = Segmentation(np.zeros((30, 30, 30), np.uint8), geometry, CLASSES)
    return facts_of(name, Image(image, geometry), label, CLASSES)


def test_ct_is_clipped_by_all_voxels_where_no_case_that_was_read_has_a_labelled_one():
    cohort = SimpleNamespace(classes=CLASSES, channels=())
    fingerprint = Fingerprint((_empty("a"), _empty("b")), 1000)
    plan = decide(_pipeline(), cohort, fingerprint, find("3d-u-net"))
    assert (plan.intensity[0].low, plan.intensity[0].high) == pytest.approx((-894, 293), abs=3)
    assert plan.intensity[0].scale == pytest.approx(346, abs=3)
    assert "none of the read cases has a labelled one" in plan.reasons["intensity"]


def test_training_cases_without_a_single_labelled_voxel_are_refused():
    with pytest.raises(UserError, match="not one voxel of a class is labelled in the 2 training cases"):
        _plan(_pipeline(), [_empty("a"), _empty("b")])
    assert _plan(_pipeline(), [_empty("a"), _case("b")]).foreground_fraction["heart"] > 0


@pytest.mark.parametrize(
    ("values", "top"), [((np.uint16, 40_000), 65535), ((np.uint8, 1), 255), ((np.float32, 1), 1)]
)
def test_the_number_range_of_pictures_is_that_of_the_whole_image_not_of_the_classes(values, top):
    dtype, highest = values
    geometry, labels = Geometry.pixels((40, 60)), np.zeros((40, 60), np.uint8)
    labels[:5, :5] = 2
    image = np.full((1, 40, 60), highest, dtype)
    image[0, :5, :5] = 0  # the class is dark
    case = facts_of("a", Image(image, geometry), Segmentation(labels, geometry, CLASSES), CLASSES)
    intensity = _plan(_pipeline("u-net", modality="photo"), [case], CLASSES[1:]).intensity[0]
    assert (intensity.low, intensity.high) == (0, top)


def test_zeros_around_a_brain_are_cropped_and_left_out_of_the_zscore():
    inside = (slice(15, 45), slice(12, 40), slice(2, 18))
    plan = _plan(_pipeline(modality="mr"), [_case("a", inside=inside), _case("b", inside=inside)])
    assert (plan.crop, plan.intensity[0].scheme) == ("nonzero", "zscore_mask")
    assert "zeros are left out" in plan.reasons["intensity"]


def test_a_channel_named_ct_is_prepared_as_ct():
    plan = _plan(_pipeline(modality="other"), [_case("a", channels=2)], channels=("CT", "PET"))
    assert plan.channels == ["CT", "PET"]
    assert [p.scheme for p in plan.intensity] == ["ct", "zscore"]


def test_photographs_stay_in_pixels_and_are_mirrored_sideways_only():
    plan = _plan(
        _pipeline("u-net", modality="photo"), [_case("a", (200, 300), unit="px", channels=3)], CLASSES[1:]
    )
    assert (plan.dims, plan.spacing_mm, plan.mirror_axes) == (2, None, [1])
    assert plan.intensity[0].scheme == "rgb"


@pytest.mark.parametrize("asked", [2, [2.0, 2.0]])
@pytest.mark.parametrize("system", ["u-net", "nnunet-plain"])
def test_photographs_can_be_given_a_coarser_grid_in_pixels(asked, system, tmp_path):
    plan = _plan(
        _pipeline(system, modality="photo", ingest={"spacing_px": asked}),
        [_case("a", (200, 300), unit="px", channels=3)],
        CLASSES[1:],
    )
    assert (plan.spacing_mm, plan.spacing_px) == (None, [2.0, 2.0])
    assert plan.grid_of(Geometry.pixels((200, 300))).shape == (100, 150)
    assert (plan.image_order, plan.reasons["spacing_px"]) == (
        1,
        "set in the pipeline file (ingest.spacing_px)",
    )
    assert plan.patch_size[0] <= 112
    save_plan(plan, tmp_path / "plan.yaml")
    assert load_plan(tmp_path / "plan.yaml") == plan


@pytest.mark.parametrize(
    ("unit", "asked", "message"),
    [
        ("mm", 2, r"\[2.0, 2.0, 2.0\] px for images with a size in mm.*spacing_mm"),
        ("px", [2, 2, 2], r"\[2.0, 2.0, 2.0\] for 2D images.*one number, or rows and columns"),
    ],
)
def test_a_grid_in_pixels_that_cannot_be_meant_is_refused(unit, asked, message):
    shape = (64, 64) if unit == "px" else (60, 50, 20)
    with pytest.raises(UserError) as told:
        _plan(
            _pipeline("u-net", modality="photo", ingest={"spacing_px": asked}), [_case("a", shape, unit=unit)]
        )
    assert re.search(message, str(told.value), re.DOTALL)


def test_a_grid_of_pixels_that_no_memory_holds_is_refused_before_any_is_taken():
    pipeline = _pipeline("u-net", modality="photo", ingest={"spacing_px": 0.001})
    with pytest.raises(
        UserError, match=r"\[0.001, 0.001\] px would make 60,000,000,000 voxels .* 200x300 voxels"
    ):
        require_grid(pipeline, (200, 300), (1.0, 1.0), "px", 3)
    require_grid(
        _pipeline("u-net", modality="photo", ingest={"spacing_px": 2}), (200, 300), (1.0, 1.0), "px", 3
    )


def test_nothing_is_mirrored_left_right_when_a_class_has_a_side():
    cases = [_case("a")]
    assert _plan(_pipeline(), cases).mirror_axes == [1, 2]
    assert _plan(_pipeline(), cases, CLASSES[1:]).mirror_axes == [0, 1, 2]
    told = _plan(_pipeline(train={"flips": [0]}), cases)
    assert told.mirror_axes == [0]
    assert "mirrors left-right although classes have sides (left lung)" in told.reasons["mirror_axes"]
    assert "sides" not in _plan(_pipeline(train={"flips": [1]}), cases).reasons["mirror_axes"]
    assert "sides" not in _plan(_pipeline(train={"flips": [0]}), cases, CLASSES[1:]).reasons["mirror_axes"]
    with pytest.raises(UserError, match="axis 3 of a 3D image"):
        _plan(_pipeline(train={"flips": [3]}), cases)


def test_mirrored_copies_are_refused_where_training_mirrors_nothing():
    flat = {"rotate": 0.2}
    mirrored = {"predict": {"flips": True}}
    with pytest.raises(UserError, match="training mirrors nothing") as caught:
        _plan(_pipeline(train={"augment": flat}, **mirrored), [_case("a")])
    assert "add `flip` to train.augment" in str(caught.value.hint)
    assert _plan(_pipeline(train={"augment": {**flat, "flip": 1.0}}, **mirrored), [_case("a")]).flips
    assert _plan(_pipeline(train={"augment": flat, "flips": []}, **mirrored), [_case("a")]).mirror_axes == []
    for never in ({"flip": 0}, {"flip": {"each": 0.0}}):
        with pytest.raises(UserError, match="training mirrors nothing"):
            _plan(_pipeline(train={"augment": {**flat, **never}}, **mirrored), [_case("a")])


SIDES = (CLASSES[0], ClassInfo("right lung", 2, (0, 0, 0), laterality="right"))


@pytest.mark.parametrize(
    ("said", "learnt"), [({"swap_sides": 0.5}, True), ({"swap_sides": 0}, False), ({}, False)]
)
def test_prediction_may_exchange_sides_only_where_training_ever_does(said, learnt):
    pipeline = _pipeline(train={"augment": {"preset": "light", **said}})
    assert _plan(pipeline, [_case("a")], SIDES).swap_sides is learnt


def test_sides_that_cannot_be_exchanged_are_refused_where_that_was_asked_for():
    asked = _pipeline(train={"augment": {"swap_sides": 0.5}})
    with pytest.raises(UserError, match="left lung has no partner on the other side"):
        _plan(asked, [_case("a")])
    assert not _plan(asked, [_case("a")], CLASSES[1:]).swap_sides


def test_a_median_case_too_large_for_a_cpu_is_coarsened_finest_axes_first():
    cases = [_case("a")]
    object.__setattr__(cases[0], "shape", (512, 512, 400))
    object.__setattr__(cases[0], "spacing", (0.75, 0.75, 1.0))
    spacing, reason = grids.decide_spacing("auto", Fingerprint(tuple(cases), 1), grids.VOXELS_CPU)
    assert np.prod(np.array([384, 384, 400]) / spacing) <= grids.VOXELS_CPU
    assert max(spacing) / min(spacing) < 1.03
    assert "coarsened" in reason
    free, _ = grids.decide_spacing("auto", Fingerprint(tuple(cases), 1), float("inf"))
    assert free == [0.75, 0.75, 1.0]


def test_what_the_pipeline_file_says_counts():
    pipeline = _pipeline(
        ingest={"spacing_mm": [2, 2, 4], "intensity": {"window_hu": [-1000, 400]}, "crop": "none"},
        train={"patch_size": [32, 32, 16], "batch_size": 5},
    )
    plan = _plan(pipeline, [_case("a")])
    assert (plan.spacing_mm, plan.patch_size, plan.batch_size, plan.crop) == (
        [2, 2, 4],
        [32, 32, 16],
        5,
        "none",
    )
    window = plan.intensity[0]
    assert (window.scheme, window.low, window.high, window.shift, window.scale) == (
        "window",
        -1000,
        400,
        -300,
        700,
    )
    for key in ("spacing_mm", "intensity", "crop", "patch_size", "batch_size"):
        assert "set in the pipeline file" in plan.reasons[key]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"ingest": {"spacing_mm": [2, 2]}}, r"\[2.0, 2.0\] for 3D images(.|\n)*give 3 positive numbers"),
        (
            {"train": {"patch_size": [30, 32, 16]}},
            r"does not suit 3d-u-net(.|\n)*nearest: \[28, 32, 16\] or \[32, 32, 16\]",
        ),
        ({"train": {"patch_size": [32, 32]}}, r"\[32, 32\] has 2 numbers for 3D images"),
        ({"ingest": {"intensity": {"window": [0, 1]}}}, "unknown scheme 'window', did you mean window_hu"),
        ({"ingest": {"intensity": {"window_hu": [400, -1000]}}}, "the first number must be below the second"),
        (
            {"ingest": {"intensity": {"percentile": [0.5, 199]}}},
            r"percentile \[0.5, 199.0\] lies outside 0..100",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_what_does(sections, message):
    with pytest.raises(UserError, match=message):
        _plan(_pipeline(**sections), [_case("a")])


def test_a_spacing_in_mm_is_refused_for_photographs():
    with pytest.raises(UserError, match="for images without a size in mm"):
        _plan(
            _pipeline("u-net", modality="photo", ingest={"spacing_mm": [1, 1]}),
            [_case("a", (64, 64), unit="px")],
        )


def test_mixed_images_are_refused_with_a_case_of_each():
    from medseg.plan.fingerprint import _require_alike

    with pytest.raises(UserError, match=r"different numbers of channels: 1 \(case a\), 2 \(case b\)"):
        _require_alike([_case("a"), _case("b", channels=2)])


def test_patches_fit_the_network_and_the_image():
    for system, size in (("3d-u-net", "small"), ("nnunet-plain", "small"), ("v-net", "tiny")):
        plan = _plan(_pipeline(system, size), [_case("a", (130, 120, 40))])
        net_divisor = decide_module._cost(
            _pipeline(system, size).only_system,
            {"dims": 3, "in_channels": 1, "out_channels": 3},
            dict(plan.topology),
        ).divisor
        assert all(n % d == 0 for n, d in zip(plan.patch_size, net_divisor))
        assert all(p <= n + d for p, n, d in zip(plan.patch_size, (130, 120, 40), net_divisor))
        assert plan.batch_size >= 2


def test_planned_networks_take_strides_from_the_spacing():
    plan = _plan(_pipeline("nnunet-plain", "small"), [_case("a", (160, 160, 24), (0.7, 0.7, 5.0))])
    assert plan.topology["strides"][1] == [2, 2, 1]
    assert plan.topology["kernel_sizes"][0] == [3, 3, 1]
    assert len(plan.topology["features_per_stage"]) == len(plan.topology["strides"])
    assert plan.image_order == 3


def test_on_a_gpu_the_planned_network_is_nnunets(monkeypatch):
    gpu = Device("cuda:0", "a card works", 24 * 10**9)
    monkeypatch.setattr(decide_module, "choose_device", lambda wish: gpu)
    monkeypatch.setattr(decide_module, "measured_flops", lambda name: 5e12)
    cases = [_case(f"c{k}", (35, 50, 36), (1.0, 1.0, 1.0)) for k in range(3)]
    fingerprint = Fingerprint(tuple(cases), 200)
    plan = decide(
        _pipeline("nnunet-plain", "paper", "mr"),
        SimpleNamespace(classes=CLASSES, channels=()),
        fingerprint,
        find("nnunet-plain"),
    )
    assert (plan.patch_size, plan.batch_size) == ([40, 56, 40], 7)
    assert plan.reasons["patch_size"] == "nnU-Net's planner nnunet for 8 GB; covers 100% of the median case"


def test_more_memory_than_there_is_is_refused_before_work():
    pipeline = _pipeline("3d-u-net", "paper", train={"patch_size": [512, 512, 512], "batch_size": 8})
    with pytest.raises(UserError, match=r"a training step would take \d+\.\d GB of"):
        _plan(pipeline, [_case("a")])
    little = _pipeline("3d-u-net", "small", train={"patch_size": [64, 64, 64]})
    with pytest.raises(UserError, match=r"would take \d\.\d GB of 0\.4 GB"):
        _plan(
            little.model_copy(update={"compute": little.compute.model_copy(update={"ram": "400 MB"})}),
            [_case("a")],
        )


def test_the_estimate_of_a_step_is_within_a_factor_of_a_few_of_a_real_one():
    import time

    import torch

    from medseg.zoo.build import build

    pipeline = _pipeline(
        "3d-u-net", "small", train={"patch_size": [32, 32, 32], "batch_size": 2, "steps": 100}
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plan = _plan(pipeline, [_case("a")])
        net = build("3d-u-net", dims=3, in_channels=1, classes=3, size="small")
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            out = net(torch.zeros(2, 1, 32, 32, 32))
            (out if isinstance(out, torch.Tensor) else out.main).sum().backward()
            seconds.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    assert 0.2 < plan.estimate["step_seconds"] / min(seconds) < 5  # loose: other work shares the machine


def test_classes_may_be_unknown_to_a_case_without_changing_the_others():
    partial = facts_of(
        "b",
        Image(np.zeros((1, 8, 8, 8)), Geometry.from_spacing((8, 8, 8), (1, 1, 1))),
        Segmentation(np.zeros((8, 8, 8), int), Geometry.from_spacing((8, 8, 8), (1, 1, 1)), CLASSES),
        CLASSES,
        known=["heart"],
    )
    assert partial.voxels == {"heart": 0}
    fingerprint = Fingerprint((_case("a"), partial), 2)
    assert fingerprint.foreground_fraction(CLASSES)["left lung"] > 0
    assert len(fingerprint.volume_ml(CLASSES)["heart"]) == 2
