"""What the FCN paper claims, shown on a small case."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.zoo.build import build
from medseg.zoo.encoders.vgg import VGG
from medseg.zoo.layers.upsample import FixedLinearUp, learned_linear_up


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("factor", [2, 8])
def test_upsampling_starts_as_linear_interpolation(dims: int, factor: int) -> None:
    x = torch.randn(1, 3, *(5,) * dims)
    mode = "bilinear" if dims == 2 else "trilinear"
    expected = nn.functional.interpolate(x, scale_factor=factor, mode=mode)
    inner = (..., *(slice(factor, -factor),) * dims)
    for up in (FixedLinearUp(dims, factor), learned_linear_up(dims, 3, factor)):
        got = up(x)
        assert got.shape == expected.shape
        torch.testing.assert_close(got[inner], expected[inner])


def test_fcn_32s_is_a_coarse_map_brought_to_full_size_and_fcn_8s_is_not() -> None:
    image = torch.randn(1, 1, 128, 128)
    for stride, coarse in ((32, True), (8, False)):
        net = build(f"fcn-{stride}s", dims=2, in_channels=1, classes=2, size="tiny").eval()
        with torch.no_grad():
            line = net(image)[0, 0, 16:112, 16]
        bends = (line[2:] - 2 * line[1:-1] + line[:-2]).abs() > 1e-5
        assert (int(bends.sum()) <= 2 * 96 // 32 + 2) is coarse, (
            "a 32-pixel map is straight between its points"
        )


@pytest.mark.parametrize("name", ["fcn-16s", "fcn-8s"])
def test_finer_scores_are_added(name: str) -> None:
    net = build(name, dims=2, in_channels=1, classes=2, size="tiny").eval()
    image = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        before = net(image)
        for skip in net.skip_scores:
            skip.bias += 1.0
        after = net(image)
    assert (after - before)[..., 8:-8, 8:-8].min() > 0.9


def test_a_convolutional_classifier_moves_with_its_image() -> None:
    net = build("fcn-8s", dims=2, in_channels=1, classes=2, size="tiny").eval()
    image = torch.zeros(1, 1, 256, 128)
    image[:, :, 96:128, 48:80] = torch.randn(1, 1, 32, 32)
    moved = image.roll(32, dims=2)
    with torch.no_grad():
        torch.testing.assert_close(net(moved)[:, :, 96:192], net(image)[:, :, 64:160], rtol=1e-4, atol=1e-5)


def test_parsenet_scores_local_and_global_features_of_equal_length() -> None:
    net = build("parsenet", dims=2, in_channels=1, classes=2, size="tiny").eval()
    head, seen = net.head.module, []
    head.classify.register_forward_hook(lambda _m, given, _o: seen.append(given[0]))
    nn.init.constant_(head.context.scale, 20.0)
    with torch.no_grad():
        net(torch.randn(1, 1, 64, 64))
    local, context = seen[0].chunk(2, dim=1)
    torch.testing.assert_close(local.norm(dim=1), torch.full((1, 8, 8), 10.0))
    torch.testing.assert_close(context.norm(dim=1), torch.full((1, 8, 8), 20.0))
    assert torch.equal(context, context[..., :1, :1].expand_as(context)), "one context for all places"


def test_vgg16_has_the_published_weights_and_declares_its_pyramid() -> None:
    with torch.device("meta"):
        net = VGG(2, 3)
        features = net(torch.zeros(1, 3, 64, 64))
    assert sum(p.numel() for p in net.parameters()) == 14_714_688
    assert [f.shape[1] for f in features] == list(net.channels)
    assert [64 // f.shape[2] for f in features] == list(net.strides)


def test_vgg_keeps_its_resolution_by_dilation() -> None:
    with torch.device("meta"):
        net = VGG(2, 3, output_stride=8)
        assert net(torch.zeros(1, 3, 64, 64))[-1].shape[2:] == (8, 8)
    assert net.strides == (2, 4, 8, 8, 8)
    assert [stage[0][0].dilation[0] for stage in net.stages] == [1, 1, 1, 1, 2]
