"""The dense CRF layer: its bounded-cost filter against the exact sum, mean field against its equations."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medseg.core.errors import UserError
from medseg.zoo.layers.dense_crf import (
    BilateralFilter,
    DenseCRF,
    Kernels,
    Potts,
    SpatialFilter,
    bilateral_features,
    gaussian,
    potts_mean_field,
)
from medseg.zoo.layers.permutohedral import PermutohedralLattice, enclosing_simplices

EXACT = Kernels(20.0, 30.0, 1.5, exact_below=10**6)
LATTICE = replace(EXACT, exact_below=0)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def noisy_ball(size: tuple[int, ...], channels: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """A ball in noise: mask (*S), image (1, C, *S), and doubtful scores (1, 2, *S)."""
    lines = [torch.arange(n) - n / 2 for n in size]
    mask = torch.stack(torch.meshgrid(*lines, indexing="ij")).square().sum(0).sqrt() < 0.3 * min(size)
    image = (2.0 * mask - 1)[None, None] + 0.2 * torch.randn(1, channels, *size)
    sure = torch.stack([0.5 - 1.0 * mask, 1.0 * mask - 0.5])[None]
    return mask, image, sure + torch.randn(1, 2, *size)


@pytest.mark.parametrize("axes", [1, 2, 3, 5])
def test_a_point_lies_within_the_corners_of_its_simplex(axes: int) -> None:
    corners, weights = enclosing_simplices(torch.randn(200, axes, dtype=torch.float64) * 3)
    assert (weights > -1e-9).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(200, dtype=torch.float64))
    last = -corners.sum(dim=2)
    assert (torch.cat([corners, last[..., None]], dim=2).remainder(axes + 1).amax(2) <= axes).all()
    assert len({tuple(c) for c in corners[0].tolist()}) == axes + 1


@pytest.mark.parametrize(
    ("size", "channels"), [((40, 44), 1), ((32, 32), 3), ((14, 12, 13), 1), ((12, 12, 12), 2)]
)
def test_the_lattice_filters_as_the_exact_sum_does(size: tuple[int, ...], channels: int) -> None:
    mask, image, scores = noisy_ball(size, channels)
    q = torch.softmax(scores, dim=1)
    exact, lattice = BilateralFilter(image, EXACT)(q), BilateralFilter(image, LATTICE)(q)
    assert (exact - lattice).abs().mean() < 0.004
    assert (exact - lattice).abs().max() < 0.06
    labels = [potts_mean_field(scores, image, Potts(kernels=k)).argmax(1) for k in (EXACT, LATTICE)]
    assert (labels[0] == labels[1]).float().mean() > 0.995
    assert (labels[1][0] == mask).float().mean() > (scores.argmax(1)[0] == mask).float().mean() + 0.1


def test_gradients_through_the_lattice_are_those_of_finite_differences() -> None:
    lattice = PermutohedralLattice(torch.randn(30, 3, dtype=torch.float64))
    values = torch.randn(30, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lattice.filter, (values,))


def test_points_too_far_apart_are_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match="more than can be numbered") as caught:
        PermutohedralLattice(1e6 * torch.randn(50, 6))
    assert "raise alpha or beta" in str(caught.value)
    with pytest.raises(UserError, match="NaN or infinity"):
        PermutohedralLattice(torch.full((3, 2), float("nan")))


def test_widths_are_above_zero() -> None:
    with pytest.raises(ValueError, match=r"theta_beta is 0\.0; it is above 0"):
        Kernels(theta_beta=0.0)
    with pytest.raises(ValueError, match="it is alpha, beta and gamma"):
        Kernels.of((3.0, 3.0))


@pytest.mark.parametrize("size", [(7, 9), (5, 4, 6)])
def test_the_spatial_filter_is_a_normalised_gaussian_over_all_pairs(size: tuple[int, ...]) -> None:
    values = torch.randn(1, 2, *size)
    spacing = (1.0, 2.0, 0.5)[: len(size)]
    got = SpatialFilter(values, 1.5, spacing)(values)
    places = torch.stack(
        torch.meshgrid(*[torch.arange(n) * s for n, s in zip(size, spacing, strict=True)], indexing="ij")
    )
    kernel = torch.exp(-torch.cdist(places.flatten(1).T, places.flatten(1).T).square() / (2 * 1.5**2))
    expected = values.flatten(2) @ (kernel / kernel.sum(1, keepdim=True)).T
    torch.testing.assert_close(got.flatten(2), expected, rtol=1e-4, atol=1e-5)


def test_one_step_of_mean_field_follows_its_equation() -> None:
    unary, image = torch.randn(1, 3, 5, 6), torch.randn(1, 1, 5, 6)
    crf = DenseCRF(3, EXACT, (5.0, 3.0), (1, 2)).train()
    features = bilateral_features(image[0], EXACT)
    kernel = torch.exp(-torch.cdist(features, features).square() / 2)
    bilateral = torch.softmax(unary, 1).flatten(2) @ (kernel / kernel.sum(1, keepdim=True)).T
    spatial = SpatialFilter(unary, EXACT.theta_gamma)(torch.softmax(unary, 1)).flatten(2)
    expected = unary.flatten(2) + 5 * bilateral + 3 * spatial
    torch.testing.assert_close(crf(unary, image).flatten(2), expected, rtol=1e-4, atol=1e-4)
    once, twice = crf(unary, image), crf.eval()(unary, image)
    assert not torch.equal(once, twice), "eval mode has its own number of steps"


def test_a_sharp_edge_in_the_image_stops_the_votes() -> None:
    image = torch.zeros(1, 1, 8, 16)
    image[..., 8:] = 3.0
    scores = torch.zeros(1, 2, 8, 16)
    scores[:, 1, :, :8], scores[:, 0, :, 8:] = 1.0, 1.0
    scores[:, :, :, 7] = 0.0  # undecided beside the edge: it follows its own side
    found = potts_mean_field(scores, image, Potts(4.0, 0.0, EXACT))
    assert (found.argmax(1)[..., :8] == 1).all()
    assert (found.argmax(1)[..., 8:] == 0).all()


def test_voxel_size_counts_in_space() -> None:
    _, image, scores = noisy_ball((10, 10, 10))
    flat = potts_mean_field(scores, image, Potts(kernels=EXACT), spacing=(5.0, 1.0, 1.0))
    assert not torch.allclose(flat, potts_mean_field(scores, image, Potts(kernels=EXACT)))


def test_no_weight_of_a_kernel_is_a_denormal_number() -> None:
    """Processors multiply those many times slower, and a wide image has many: exp(-0.5 (40 / 3)^2) is one."""
    squared = (torch.arange(64.0) / 3).square()
    weights = gaussian(squared)
    tiny = torch.finfo(torch.float32).tiny
    assert ((weights == 0) | (weights > tiny)).all()
    assert (weights == 0).any()
    assert torch.equal(weights[:30], torch.exp(-0.5 * squared)[:30])
    for matrix in SpatialFilter(torch.zeros(1, 2, 96, 128), 3.0).matrices:
        assert ((matrix == 0) | (matrix > tiny)).all()
