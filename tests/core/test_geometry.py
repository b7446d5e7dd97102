"""Grids: spacing, orientation, volumes, and what happens when two grids are compared."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.core import Geometry, UserError
from medseg.core.geometry import reorient_array, restore_array


def oriented(
    order: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 2.0, 3.0)
) -> np.ndarray:
    """An affine whose voxel axis a runs along world axis order[a] with signs[a]."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (world, sign) in enumerate(zip(order, signs)):
        affine[world, axis] = sign * spacing[axis]
    affine[:3, 3] = (10, -20, 30)
    return affine


ALL_48 = [(o, s) for o in permutations(range(3)) for s in product((1, -1), repeat=3)]


def test_a_box_of_ten_by_ten_by_four_voxels_is_one_millilitre() -> None:
    grid = Geometry.from_spacing((10, 10, 4), (1, 1, 2.5))
    assert grid.voxel_volume_ml * 400 == pytest.approx(1.0)


def test_shear_counts_in_the_volume() -> None:
    affine = np.eye(4)
    affine[0, 2] = 0.5
    assert Geometry((2, 2, 2), affine).voxel_volume_ml == pytest.approx(0.001)
    assert not Geometry((2, 2, 2), affine).is_orthogonal


@pytest.mark.parametrize(("order", "signs"), ALL_48)
def test_reorienting_keeps_every_voxel_at_its_place_in_the_patient(order: tuple, signs: tuple) -> None:
    grid = Geometry((3, 4, 5), oriented(order, signs))
    array = np.arange(60).reshape(3, 4, 5)
    turned, permutation, flips = grid.reoriented()
    moved = reorient_array(array, permutation, flips)
    assert turned.axis_codes == "RAS"
    assert moved.shape == turned.shape
    for index in [(0, 0, 0), (2, 1, 3), (1, 3, 4)]:
        there = np.rint(turned.to_index(grid.to_world(index))).astype(int)
        assert moved[tuple(there)] == array[index]
    assert np.array_equal(restore_array(moved, permutation, flips), array)


def test_axis_codes_name_the_direction_an_index_grows_to() -> None:
    assert Geometry((2, 2, 2), np.diag([-1.0, -1, 1, 1])).axis_codes == "LPS"


def test_a_label_three_slices_off_is_refused_with_the_distance() -> None:
    image = Geometry.from_spacing((8, 8, 8), (1, 1, 4))
    label = image.cropped((0, 0, 3), (8, 8, 8))
    with pytest.raises(UserError, match=r"are 12.00 mm apart") as caught:
        image.require_same_grid(label, "image", "label", "case a")
    assert "8x8x8 voxels of 1x1x4 mm" in str(caught.value)


def test_header_noise_below_a_hundredth_voxel_is_the_same_grid() -> None:
    image = Geometry.from_spacing((64, 64, 8), (1, 1, 4))
    noisy = np.array(image.affine)
    noisy[0, 3] += 0.005
    assert image.same_grid(Geometry(image.shape, noisy))


def test_another_spacing_keeps_the_edges_of_the_field() -> None:
    image = Geometry.from_spacing((10, 20, 7), (1, 2, 5))
    coarse = image.with_spacing((2, 3, 4))
    low, high = np.full(3, -0.5), np.asarray(image.shape) - 0.5
    assert coarse.to_world(np.full(3, -0.5)) == pytest.approx(image.to_world(low))
    assert coarse.to_world(np.asarray(coarse.shape) - 0.5) == pytest.approx(image.to_world(high))


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.eye(3)])
def test_a_broken_affine_is_refused(affine: np.ndarray) -> None:
    with pytest.raises(UserError, match="affine"):
        Geometry((2, 2, 2), affine)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=12, max_size=12))
def test_world_and_index_are_inverse(numbers: list[float]) -> None:
    affine = np.eye(4)
    affine[:3] += np.reshape(numbers, (3, 4)) * 0.1
    if abs(np.linalg.det(affine)) < 0.05:
        return
    grid = Geometry((4, 5, 6), affine)
    points = np.array([[0, 0, 0], [3, 2, 5.5]])
    assert grid.to_index(grid.to_world(points)) == pytest.approx(points, abs=1e-8)


def test_a_geometry_survives_json() -> None:
    grid = Geometry((3, 4, 5), oriented((2, 0, 1), (1, -1, 1)))
    assert Geometry.from_json(grid.as_json()).same_grid(grid, 0)
