"""What each pyramid paper claims, shown on a small case."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.layers.feature_pyramid import TopDown
from medseg.zoo.layers.pooling import PyramidPooling
from medseg.zoo.outputs import Outputs
from medseg.zoo.pyramid.apc_net import AdaptiveContext
from medseg.zoo.pyramid.dm_net import DynamicConv


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_pyramid_pooling_adds_the_means_of_parts(dims: int) -> None:
    pool = PyramidPooling(dims, 2, 2, (1, 2)).eval()
    x = torch.randn(1, 2, *(4,) * dims)
    out = pool(x)
    assert out.shape[1] == pool.channels == 6
    torch.testing.assert_close(out[:, :2], x)
    whole = pool.branches[0](x.mean(dim=tuple(range(2, dims + 2)), keepdim=True))
    torch.testing.assert_close(out[:, 2:4], whole.expand_as(out[:, 2:4]))
    halves = nn.functional.avg_pool2d(x, 2) if dims == 2 else nn.functional.avg_pool3d(x, 2)
    corner = pool.branches[1](halves)[(..., *(0,) * dims)]
    torch.testing.assert_close(out[:, 4:][(..., *(0,) * dims)], corner)


def test_the_pyramid_lets_a_far_corner_be_seen() -> None:
    seen = {}
    for bins in ((1, 2, 3, 6), (6,)):
        net = build("pspnet", dims=2, in_channels=1, classes=2, size="tiny", bins=bins).eval()
        image = torch.randn(1, 1, 256, 256, requires_grad=True)
        net(image)[0, 0, 4, 4].backward()
        seen[bins] = bool((image.grad[0, 0, -32:, -32:] != 0).any())
    assert seen == {(1, 2, 3, 6): True, (6,): False}


@pytest.mark.parametrize("size", ["paper", "tiny"])
def test_pspnet_dilates_every_unit_of_its_last_two_stages(size: str) -> None:
    with torch.device("meta"):
        net = build("pspnet", dims=2, in_channels=3, classes=2, size=size)
    found = [
        {m.dilation[0] for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)}
        for stage in net.encoder.stages
    ]
    assert found == [{1}, {1}, {2}, {4}]
    assert net.encoder.strides == (4, 8, 8, 8)


def test_pspnet_trains_its_fourth_stage_with_four_tenths_of_the_loss() -> None:
    net = build("pspnet", dims=2, in_channels=1, classes=2, size="tiny").train()
    outputs = net(torch.randn(2, 1, 32, 32))
    assert isinstance(outputs, Outputs)
    assert outputs.auxiliary_weights == (0.4,)
    (outputs.auxiliary[0].sum()).backward()
    assert all(p.grad is None for p in net.encoder.stages[3].parameters())
    assert all(p.grad is not None for p in net.encoder.stages[2].parameters())


def test_meaning_flows_from_coarse_to_fine_features() -> None:
    pyramid = TopDown(2, (2, 4, 8), 3)
    fine, middle, coarse = torch.randn(1, 2, 8, 8), torch.randn(1, 4, 4, 4), torch.randn(1, 8, 2, 2)
    up = nn.functional.interpolate
    top = pyramid.lateral[2](coarse)
    second = pyramid.lateral[1](middle) + up(top, scale_factor=2.0)
    third = pyramid.lateral[0](fine) + up(second, scale_factor=2.0)
    got = pyramid([fine, middle, coarse])
    for smooth, level, expected in zip(pyramid.smooth, got, (third, second, top), strict=True):
        torch.testing.assert_close(level, smooth(expected))


def test_the_semantic_head_sums_all_levels_at_a_quarter() -> None:
    net = build("fpn", dims=2, in_channels=1, classes=2, size="tiny").eval()
    features = net.encoder(torch.randn(1, 1, 64, 64))
    assert net.head(features).shape[2:] == features[0].shape[2:] == (16, 16)
    steps = [len(branch) for branch in net.head[1].branches]
    assert steps == [1, 1, 2, 3], "as many doublings as a level is deep"
    levels = net.head[0](features)
    with torch.no_grad():
        before = net.head[1](levels)
        for i in range(4):
            other = [x + torch.randn_like(x) * (i == j) for j, x in enumerate(levels)]
            assert not torch.allclose(net.head[1](other), before), f"level {i} counts"


@pytest.mark.parametrize("dims", [2, 3])
def test_adaptive_context_gathers_regions_by_affinity(dims: int) -> None:
    module = AdaptiveContext(dims, 3, 4, 2).eval()
    x = torch.randn(1, 3, *(4,) * dims)
    pool = nn.functional.avg_pool2d if dims == 2 else nn.functional.avg_pool3d
    regions = module.regions(pool(x, 2)).flatten(2)[0]
    entered = module.enter(x)
    whole = module.whole(entered.mean(dim=tuple(range(2, dims + 2)), keepdim=True))
    affinity = torch.sigmoid(module.affinity(entered + whole)).flatten(2)[0]
    gathered = torch.stack(
        [sum(affinity[r, n] * regions[:, r] for r in range(2**dims)) for n in range(4**dims)], 1
    )
    expected = module.mix(torch.relu(entered + module.residual(gathered.reshape(entered.shape))))
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_dynamic_filters_are_made_from_each_image(dims: int) -> None:
    module = DynamicConv(dims, 3, 4, 3).eval()
    x = torch.randn(2, 3, *(6,) * dims)
    conv = nn.functional.conv2d if dims == 2 else nn.functional.conv3d
    pool = nn.functional.avg_pool2d if dims == 2 else nn.functional.avg_pool3d
    for sample in range(2):
        one = x[sample : sample + 1]
        kernels = module.make(pool(one, 2))[0][:, None]
        by_hand = conv(module.enter(one), kernels, padding=1, groups=4)
        torch.testing.assert_close(module.filtered(x)[sample : sample + 1], by_hand)


def test_even_dynamic_filters_are_refused() -> None:
    with pytest.raises(UserError, match=r"kernels are \[1, 2\]; they are odd"):
        build("dm-net", dims=2, in_channels=1, classes=2, size="tiny", kernels=(1, 2))
