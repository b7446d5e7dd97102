"""What the variants of DeepLab v3 change, shown on a small case."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from medseg.zoo.build import build
from medseg.zoo.dilated.deeplab_v3_smoke import ChannelAttentionDecoder, FeatureRefinement
from medseg.zoo.layers import nd
from medseg.zoo.layers.cubic import keys_kernel, nine_point_cubic
from medseg.zoo.layers.deformable import DeformableConv


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def hill(dims: int, side: int) -> torch.Tensor:
    """A smooth score map with one maximum, sampled at the centres of `side` cells an axis."""
    line = torch.cos((torch.arange(side) + 0.5) / side * torch.pi - torch.pi / 2)
    total = line
    for _ in range(dims - 1):
        total = total[..., None] * line
    return total[None, None]


@pytest.mark.parametrize("dims", [2, 3])
def test_nine_points_follow_a_smooth_score_map_closer_than_bilinear_ones(dims: int) -> None:
    fine, coarse = hill(dims, 48), hill(dims, 6)
    inner = (..., *(slice(8, -8),) * dims)
    size = fine.shape[2:]
    cubic = (nine_point_cubic(coarse, size) - fine)[inner].abs().mean()
    linear = (nd.resize(coarse, size) - fine)[inner].abs().mean()
    assert cubic < 0.6 * linear


@pytest.mark.parametrize("dims", [2, 3])
def test_each_value_is_a_cubic_sum_of_three_samples_an_axis(dims: int) -> None:
    coarse, factor = torch.randn(1, 2, *(5,) * dims), 4
    fine = nine_point_cubic(coarse, (20,) * dims)
    for place in [(8,) * dims, (9,) * dims, tuple(range(10, 10 + dims))]:
        centres = [(p + 0.5) / factor - 0.5 for p in place]
        middles = [int(c + 0.5) for c in centres]
        total, weights = torch.zeros(2), 0.0
        for offset in itertools.product((-1, 0, 1), repeat=dims):
            taps = [m + o for m, o in zip(middles, offset, strict=True)]
            weight = 1.0
            for tap, centre in zip(taps, centres, strict=True):
                weight *= float(keys_kernel(torch.tensor(tap - centre)))
            total, weights = total + weight * coarse[(0, slice(None), *taps)], weights + weight
        torch.testing.assert_close(fine[(0, slice(None), *place)], total / weights)


def test_constants_and_sizes_that_stay_are_kept() -> None:
    torch.testing.assert_close(nine_point_cubic(torch.ones(1, 1, 3, 1), (7, 5)), torch.ones(1, 1, 7, 5))
    x = torch.randn(1, 1, 4, 4)
    assert torch.equal(nine_point_cubic(x, (4, 4)), x)


def test_bicubic9_is_deeplab_v3_but_for_the_way_up() -> None:
    ours = build("deeplab-v3-bicubic9", dims=2, in_channels=1, classes=2, size="tiny").eval()
    plain = build("deeplab-v3", dims=2, in_channels=1, classes=2, size="tiny").eval()
    names = [name.replace("head.module", "head") for name in plain.state_dict()]
    ours.load_state_dict(dict(zip(names, plain.state_dict().values(), strict=True)))
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        coarse = ours.coarse(x)
        torch.testing.assert_close(nd.resize(coarse, (64, 64)), plain(x))
        torch.testing.assert_close(ours(x), nine_point_cubic(coarse, (64, 64)))
        bends = (ours(x).diff(n=2, dim=2).abs() > 1e-5).float().mean()
        straight = (plain(x).diff(n=2, dim=2).abs() > 1e-5).float().mean()
    assert bends > 0.5 > straight, "bilinear scores are straight between their points"


@pytest.mark.parametrize("dims", [2, 3])
def test_a_deformable_convolution_starts_as_a_dilated_one_and_moves_with_its_offsets(dims: int) -> None:
    conv = DeformableConv(dims, 2, 3, dilation=2)
    x = torch.randn(1, 2, *(9,) * dims)
    convolve = nn.functional.conv2d if dims == 2 else nn.functional.conv3d
    dilated = convolve(x, conv.weight, padding=2, dilation=2)
    torch.testing.assert_close(conv(x), dilated, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        conv.offset.bias.view(-1, dims)[:, 0] = 1.0
    torch.testing.assert_close(conv(x)[:, :, 2:5], dilated[:, :, 3:6], rtol=1e-4, atol=1e-5)


def test_each_tap_may_look_elsewhere_between_voxels() -> None:
    conv = DeformableConv(2, 1, 1)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, 0, 0] = 1.0
        conv.offset.bias[:2] = torch.tensor([1.25, 3.0])  # the tap at (-1, -1) looks at (0.25, 2)
    x = torch.randn(1, 1, 8, 8)
    expected = 0.75 * x[0, 0, 3, 5] + 0.25 * x[0, 0, 4, 5]
    torch.testing.assert_close(conv(x)[0, 0, 3, 3], expected)


def test_the_refinement_of_smoke_joins_what_dilation_keeps_apart() -> None:
    dilated = nn.Conv2d(4, 4, 3, padding=2, dilation=2)
    refinement = FeatureRefinement(2, 4, 4).eval()
    for module, mixes in ((dilated, False), (nn.Sequential(dilated, refinement), True)):
        x = torch.randn(1, 4, 13, 13, requires_grad=True)
        module(x)[0, :, 6, 6].sum().backward()
        seen = x.grad[0].abs().sum(dim=0) > 0
        assert bool(seen[1::2, :].any()) is mixes, "a dilation of 2 sees every second row only"


def test_the_attention_of_the_smoke_decoder_weighs_channels_by_the_whole_image() -> None:
    decoder = ChannelAttentionDecoder(2, 6, 8, 2).eval()
    joined = torch.randn(1, 8 + 4, 8, 8)
    weights = (decoder.gate(joined) / joined)[0]
    torch.testing.assert_close(weights, weights[:, :1, :1].expand_as(weights))
    assert 0 < float(weights.min()) < float(weights.max()) < 1
    far = joined.clone()
    far[..., 0, 0] += 20
    assert not torch.allclose((decoder.gate(far) / far)[0], weights)
    low, deep = torch.randn(1, 6, 8, 8), torch.randn(1, 8, 4, 4)
    before = decoder(low, deep)
    decoder.gate.excite.append(nn.Threshold(2.0, 0.0))  # every weight 0: nothing passes
    closed = decoder(low, deep)
    assert not torch.allclose(before, closed)
    torch.testing.assert_close(closed.amax(dim=(2, 3)), closed[:, :, 4, 4])
