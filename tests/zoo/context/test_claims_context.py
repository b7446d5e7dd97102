"""What the context networks claim, shown on a small case."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.context.large_kernel import BoundaryRefinement, GlobalConv
from medseg.zoo.context.ocr import ObjectAttention, region_features
from medseg.zoo.context.refine_net import ChainedPooling, ResidualConv
from medseg.zoo.outputs import Outputs


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_region_features_are_the_means_of_their_regions(dims: int) -> None:
    features = torch.randn(1, 5, *(4,) * dims)
    scores = torch.full((1, 2, *(4,) * dims), -50.0)
    scores[:, 0, :2], scores[:, 1, 2:] = 50.0, 50.0
    regions = region_features(features, scores)
    torch.testing.assert_close(regions[0, 0], features[0, :, :2].flatten(1).mean(dim=1))
    torch.testing.assert_close(regions[0, 1], features[0, :, 2:].flatten(1).mean(dim=1))


def test_each_pixel_gathers_from_the_regions_only() -> None:
    module = ObjectAttention(2, 6, 4).eval()
    x, regions = torch.randn(1, 6, 3, 3), torch.randn(1, 2, 6)
    columns = regions.transpose(1, 2)[..., None]
    query = module.pixel(x).flatten(2)[0].T
    key, value = module.region(columns)[0, :, :, 0].T, module.value(columns)[0, :, :, 0].T
    weights = torch.softmax(query @ key.T / 4**0.5, dim=1)
    torch.testing.assert_close(module(x, regions), module.out((weights @ value).T.reshape(1, 4, 3, 3)))


def test_the_regions_of_ocr_are_supervised() -> None:
    net = build("ocr", dims=2, in_channels=1, classes=2, size="tiny").train()
    outputs = net(torch.randn(2, 1, 64, 64))
    assert isinstance(outputs, Outputs)
    assert outputs.auxiliary_weights == (0.4,)


def test_residual_units_of_refinenet_start_from_the_features_themselves() -> None:
    unit = ResidualConv(2, 4)
    nn.init.zeros_(unit.second.weight)
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(unit(x), x)


def test_refinenet_drops_the_deepest_features_and_what_its_scores_read() -> None:
    net = build("refine-net", dims=2, in_channels=1, classes=2, size="tiny").train()
    shapes: list[tuple[int, ...]] = []
    net.head.dropout.register_forward_hook(lambda _module, inputs, _out: shapes.append(inputs[0].shape[1:]))
    net(torch.randn(2, 1, 64, 64))
    assert shapes == [(32, 2, 2), (16, 4, 4), (4, 16, 16)]


@pytest.mark.parametrize("dims", [2, 3])
def test_each_link_of_chained_pooling_widens_the_view(dims: int) -> None:
    def width(links: int) -> int:
        chain = ChainedPooling(dims, 2, links)
        for conv in chain.convs:
            nn.init.constant_(conv.weight, 0.1)
        x = torch.zeros(1, 2, *(41,) * dims)
        x[(..., *(20,) * dims)] = 1.0
        line = chain(x)[(0, 0, slice(None), *(20,) * (dims - 1))]
        return int((line > 0).sum())

    assert [width(n) for n in (1, 2, 3)] == [7, 13, 19]


def test_crossed_factors_equal_one_large_kernel_of_rank_one() -> None:
    conv = GlobalConv(2, 1, 1, 5)
    for way in conv.ways:
        for factor in way:
            nn.init.zeros_(factor.bias)
    x = torch.randn(1, 1, 9, 9)
    kernels = [way[0].weight[0, 0] @ way[1].weight[0, 0] for way in (conv.ways[0],)]
    kernels.append(conv.ways[1][1].weight[0, 0] @ conv.ways[1][0].weight[0, 0])
    whole = sum(nn.functional.conv2d(x, k[None, None], padding=2) for k in kernels)
    torch.testing.assert_close(conv(x), whole)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_large_kernel_sees_its_whole_window(dims: int) -> None:
    conv = GlobalConv(dims, 1, 1, 5)
    x = torch.randn(1, 1, *(9,) * dims, requires_grad=True)
    conv(x)[(0, 0, *(4,) * dims)].backward()
    assert int((x.grad != 0).sum()) == 5**dims


def test_the_scores_of_all_four_stages_see_15_by_15() -> None:
    with torch.device("meta"):
        net = build("gcn-large-kernel", dims=2, in_channels=3, classes=21)
    convs = [m for m in net.modules() if isinstance(m, GlobalConv)]
    assert [[f.kernel_size for way in conv.ways for f in way] for conv in convs] == [
        [(15, 1), (1, 15), (1, 15), (15, 1)]
    ] * 4


def test_boundary_refinement_adds_a_residual() -> None:
    refine = BoundaryRefinement(2, 3)
    nn.init.zeros_(refine.second.weight)
    nn.init.zeros_(refine.second.bias)
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(refine(x), x)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(UserError, match="kernel is 4; it is odd"):
        build("gcn-large-kernel", dims=2, in_channels=1, classes=2, size="tiny", kernel=4)


def test_each_level_of_upernet_is_told_what_all_coarser_ones_know() -> None:
    net = build("uper-net", dims=2, in_channels=1, classes=2, size="tiny").eval()
    features = [f.detach().requires_grad_() for f in net.encoder(torch.randn(1, 1, 128, 128))]
    smoothed: list[torch.Tensor] = []
    for smooth in net.head.smooth:
        smooth.register_forward_pre_hook(lambda _module, inputs: smoothed.append(inputs[0]))
    net.head(features)
    for level, x in enumerate(smoothed):
        gradients = torch.autograd.grad(x.sum(), features, retain_graph=True, allow_unused=True)
        assert [g is not None and bool(g.any()) for g in gradients] == [i >= level for i in range(4)]


def test_the_top_of_upernet_knows_the_whole_image() -> None:
    net = build("uper-net", dims=2, in_channels=1, classes=2, size="tiny").eval()
    features = [f.detach().requires_grad_() for f in net.encoder(torch.randn(1, 1, 256, 256))]
    net.head(features)[0, 0, 0, 0].backward()
    assert (features[-1].grad[0, :, -1, -1] != 0).any(), "the far corner of the coarsest level"
    assert not (features[0].grad[0, :, 30:, 30:] != 0).any(), "but only near detail"
