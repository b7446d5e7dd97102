"""Preparing one case: geometry is kept through every step, whatever the orientation, obliqueness or shear."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from medseg.config import IntensityPlan, Plan
from medseg.core import ClassInfo, Geometry, Image, Segmentation, UserError
from medseg.ingest.prepare import prepare_image, prepare_target

CLASSES = (ClassInfo("ball", 1, (1, 2, 3)), ClassInfo("rod", 4, (1, 2, 3)))


def _plan(**more):
    facts = {"dims": 3, "in_channels": 1, "classes": [c.as_json() for c in CLASSES], "out_channels": 3,
                 "spacing_mm": [2.0, 2.0, 2.5], "intensity": [IntensityPlan(scheme="none")], "image_order": 1,
                 "patch_size": [16] * 3, "batch_size": 1}  # fmt: skip
    return Plan(**{**facts, **more})


def _scene(geometry):
    """A ball (1) and a rod (4), asymmetric in every direction, drawn in mm on any grid; intensities by class."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), axis=-1)
    mm = geometry.to_world(index)
    labels = np.zeros(geometry.shape, np.int16)
    labels[((mm - [6, -8, 5]) ** 2).sum(-1) < 12**2] = 1
    labels[(np.abs(mm - [-10, 10, -9]) < [4, 9, 6]).all(-1)] = 4
    image = labels.astype(np.float32) * 100
    return Image(image[None], geometry), Segmentation(labels, geometry, CLASSES)


def _centres_mm(target, geometry):
    return {k: geometry.to_world(np.argwhere(target == k)).mean(0) for k in (1, 2)}


def _weighted_centre_mm(array, geometry):
    """Centre of mass of the intensities: not rounded to voxels, so a shift of a tenth of one shows."""
    index = np.argwhere(np.abs(array) > 0)
    return np.average(geometry.to_world(index), axis=0, weights=array[tuple(index.T)])


def _base():
    return Geometry.from_spacing((48, 44, 30), (1.2, 1.3, 2.0), (-28, -28, -30))


EXPECTED = {1: [6, -8, 5], 2: [-10, 10, -9]}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_all_orientations_of_a_volume_are_prepared_alike(order):
    base = _base()
    image, seg = _scene(base)
    reference = prepare_image(image, _plan())
    target = prepare_target(seg, reference, _plan())
    for flips in product((False, True), repeat=3):
        affine = np.eye(4)
        affine[:3, :3] = base.affine[:3, list(order)]
        array, labels = image.array[0].transpose(order), seg.labels.transpose(order)
        for axis, turned in enumerate(flips):
            if turned:
                affine[:3, 3] += affine[:3, axis] * (array.shape[axis] - 1)
                affine[:3, axis] *= -1
                array, labels = np.flip(array, axis), np.flip(labels, axis)
        affine[:3, 3] += base.affine[:3, 3]
        stored = Geometry(array.shape, affine)
        prepared = prepare_image(Image(array[None], stored), _plan())
        assert prepared.geometry.axis_codes == "RAS"
        assert prepared.geometry.same_grid(reference.geometry)
        assert (prepared.array == reference.array).all()
        assert (prepare_target(Segmentation(labels, stored, CLASSES), prepared, _plan()) == target).all()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"image_order": 3},
        {"crop": "nonzero"},
        {"spacing_mm": [3.1, 1.0, 1.7]},
        {"spacing_mm": [0.9, 0.9, 4.0]},
    ],
    ids=str,
)
def test_objects_stay_where_they_are_in_mm(change):
    image, seg = _scene(_base())
    plan = _plan(**change)
    prepared = prepare_image(image, plan)
    source = _weighted_centre_mm(image.array[0], image.geometry)
    assert np.abs(_weighted_centre_mm(prepared.array[0], prepared.geometry) - source).max() < 0.25
    centres = _centres_mm(prepare_target(seg, prepared, plan), prepared.geometry)
    for k, expected in EXPECTED.items():
        assert np.abs(centres[k] - expected).max() < 0.5 * max(plan.spacing_mm)


def test_an_oblique_volume_stays_on_its_own_axes():
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    oblique = Geometry(_base().shape, turn @ _base().affine)
    image, seg = _scene(oblique)
    prepared = prepare_image(image, _plan())
    directions = prepared.geometry.affine[:3, :3] / prepared.geometry.spacing
    assert prepared.straight
    assert np.abs(directions - turn[:3, :3]).max() < 1e-9
    source = _weighted_centre_mm(image.array[0], oblique)
    assert np.abs(_weighted_centre_mm(prepared.array[0], prepared.geometry) - source).max() < 0.1
    centres = _centres_mm(prepare_target(seg, prepared, _plan()), prepared.geometry)
    assert all(np.abs(centres[k] - EXPECTED[k]).max() < 1.25 for k in EXPECTED)


def test_a_sheared_volume_is_prepared_on_a_straight_grid_in_place():
    affine = np.array(_base().cropped((0, -8, 0), (1, 1, 1)).affine)
    affine[1, 2] = np.tan(np.radians(15)) * 2.0  # a gantry tilted by 15 degrees
    image, seg = _scene(Geometry((48, 60, 30), affine))
    prepared = prepare_image(image, _plan())
    assert not prepared.straight
    assert prepared.geometry.is_orthogonal
    assert prepared.geometry.spacing == pytest.approx((2.0, 2.0, 2.5))
    source = _weighted_centre_mm(image.array[0], image.geometry)
    assert np.abs(_weighted_centre_mm(prepared.array[0], prepared.geometry) - source).max() < 0.25
    target = prepare_target(seg, prepared, _plan(spacing_mm=[2.0, 2.0, 2.5]))
    centres = _centres_mm(target, prepared.geometry)
    assert all(np.abs(centres[k] - EXPECTED[k]).max() < 1.25 for k in EXPECTED)
    assert (target == 1).sum() * prepared.geometry.voxel_volume_ml == pytest.approx(
        seg.volume_ml(0), rel=0.03
    )


def test_photographs_are_not_resampled():
    array = np.random.default_rng(0).integers(0, 255, (3, 21, 33)).astype(np.uint8)
    rgb = IntensityPlan(scheme="rgb", low=0, high=255, shift=127.5, scale=127.5)
    plan = _plan(dims=2, in_channels=3, spacing_mm=None, intensity=[rgb] * 3, patch_size=[16, 16])
    prepared = prepare_image(Image(array, Geometry.pixels((21, 33))), plan)
    assert prepared.array.shape == (3, 21, 33)
    assert np.abs(prepared.array - (array / 127.5 - 1)).max() < 1e-5
    labels = np.zeros((21, 33), np.uint8)
    labels[5:9, 4:30] = 4
    target = prepare_target(Segmentation(labels, Geometry.pixels((21, 33)), CLASSES), prepared, plan)
    assert target.tolist() == (labels // 2).tolist()


def test_zeros_around_a_brain_stay_zero_under_the_masked_zscore():
    array = np.zeros((1, 20, 20, 20), np.float32)
    array[0, 5:15, 5:15, 5:15] = np.random.default_rng(0).normal(500, 50, (10, 10, 10))
    plan = _plan(intensity=[IntensityPlan(scheme="zscore_mask")], spacing_mm=[1.0, 1.0, 1.0])
    out = prepare_image(Image(array, Geometry.from_spacing((20, 20, 20), (1, 1, 1))), plan).array[0]
    assert (out[:5] == 0).all()
    assert out[5:15, 5:15, 5:15].std() == pytest.approx(1, abs=1e-3)


def test_regions_with_ignored_voxels_keep_them_ignored():
    geometry = Geometry.from_spacing((20, 20, 20), (1, 1, 1))
    regions = np.zeros((2, 20, 20, 20), bool)
    regions[0, 2:12, 2:12, 2:12] = regions[1, 4:8, 4:8, 4:8] = True
    labels = regions.sum(0)
    labels[16:] = 9
    seg = Segmentation(labels, geometry, CLASSES, regions)
    plan = _plan(overlapping=True, out_channels=2, ignore=9, spacing_mm=[2.0, 2.0, 2.0])
    prepared = prepare_image(Image(np.zeros((1, 20, 20, 20), np.float32), geometry), plan)
    target = prepare_target(seg, prepared, plan)
    assert target.shape == (2, 10, 10, 10)
    assert [(channel == 1).sum() for channel in target] == [125, 8]
    assert (target[:, 8:] == 255).all()


def test_a_label_on_another_grid_is_refused_with_the_distance():
    image, seg = _scene(_base())
    shifted = Segmentation(seg.labels, _base().cropped((0, 0, 3), seg.labels.shape), CLASSES)
    with pytest.raises(UserError, match=r"image and label are 6\.00 mm apart"):
        prepare_target(shifted, prepare_image(image, _plan()), _plan())


def test_what_does_not_fit_the_plan_is_refused():
    geometry = Geometry.from_spacing((8, 8, 8), (1, 1, 1))
    with pytest.raises(UserError, match="has 2 channels, but the plan was made for 1"):
        prepare_image(Image(np.zeros((2, 8, 8, 8), np.float32), geometry), _plan())
    with pytest.raises(UserError, match="is a flat image, but the plan was made for 3D"):
        prepare_image(Image(np.zeros((1, 8, 8), np.float32), Geometry.pixels((8, 8))), _plan())


def test_preparing_does_not_alter_the_image():
    image, _ = _scene(_base())
    before = image.array.copy()
    prepare_image(image, _plan(intensity=[IntensityPlan(scheme="zscore")], spacing_mm=list(_base().spacing)))
    assert (image.array == before).all()


def test_a_large_ct_needs_little_more_memory_than_its_result():
    import tracemalloc

    image = Image(
        np.zeros((1, 256, 256, 200), np.int16), Geometry.from_spacing((256, 256, 200), (0.8, 0.8, 1.5))
    )
    plan = _plan(spacing_mm=[3.0, 3.0, 3.0], intensity=[IntensityPlan(scheme="window", low=-1000, high=400)])
    prepare_image(image, plan)
    tracemalloc.start()
    prepare_image(image, plan)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 70e6  # in float64 the volume alone would be 105 MB
