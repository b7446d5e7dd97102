"""What each dilated network claims, shown on a small case."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.zoo.build import build
from medseg.zoo.dilated.deeplab_v1 import large_fov
from medseg.zoo.dilated.dilated_context import ContextModule
from medseg.zoo.dilated.duc_hdc import DenseUpsampling
from medseg.zoo.encoders.resnet import Residual, ResNet
from medseg.zoo.layers.pooling import ASPP
from medseg.zoo.layers.shuffle import voxel_shuffle, voxel_unshuffle
from medseg.zoo.outputs import Outputs


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def reach(module: nn.Module, channels: int, side: int = 101) -> int:
    """How many positions along an axis the middle output sees."""
    x = torch.randn(1, channels, side, 3, requires_grad=True)
    module(x)[0, :, side // 2, 1].sum().backward()
    seen = (x.grad[0].abs().sum(dim=(0, 2)) > 0).nonzero()
    return int(seen.max() - seen.min()) + 1


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("bottleneck", [True, False])
def test_dilation_computes_everywhere_what_stride_computes_here_and_there(
    dims: int, bottleneck: bool
) -> None:
    shape = Residual((1, 1, 2, 2), bottleneck=bottleneck, width=2)
    sparse, dense = ResNet(dims, 1, shape, 32).eval(), ResNet(dims, 1, shape, 8).eval()
    dense.load_state_dict(sparse.state_dict())
    x = torch.randn(1, 1, *(64 if dims == 2 else 32,) * dims)
    every_fourth = (..., *(slice(None, None, 4),) * dims)
    torch.testing.assert_close(dense(x)[-1][every_fourth], sparse(x)[-1])
    assert dense.strides == (4, 8, 8, 8)


def test_the_large_field_of_view_sees_25_positions_with_a_3x3_kernel() -> None:
    assert reach(large_fov(2, 2, 64).eval(), 2) == 25


@pytest.mark.parametrize("dims", [2, 3])
def test_summed_classifiers_of_deeplab_v2_see_four_scales(dims: int) -> None:
    net = build("deeplab-v2", dims=dims, in_channels=1, classes=2, size="tiny").eval()
    assert [c.dilation[0] for c in net.classifiers] == [6, 12, 18, 24]
    x = torch.randn(1, 1, *(16,) * dims)
    features = net.encoder(x)[-1]
    torch.testing.assert_close(net.scores(x), sum(c(features) for c in net.classifiers))


def test_deeplab_v2_takes_the_largest_score_of_its_scales_and_trains_each() -> None:
    net = build("deeplab-v2", dims=2, in_channels=1, classes=2, size="tiny").train()
    outputs = net(torch.randn(2, 1, 32, 32))
    assert isinstance(outputs, Outputs)
    torch.testing.assert_close(outputs.main, torch.stack(outputs.auxiliary).amax(dim=0))
    assert outputs.auxiliary_weights == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("size", ["paper", "small", "tiny"])
def test_deeplab_v2_looks_at_three_scales_in_every_size(size: str) -> None:
    with torch.device("meta"):
        assert build("deeplab-v2", dims=2, in_channels=1, classes=2, size=size).scales == (1.0, 0.75, 0.5)


@pytest.mark.parametrize("dims", [2, 3])
def test_image_level_features_reach_every_position(dims: int) -> None:
    aspp = ASPP(dims, 2, 16, (1,)).eval()
    x = torch.randn(1, 2, *(9,) * dims)
    changed = x.clone()
    changed[(..., *(0,) * dims)] += 5
    assert ((aspp(x) - aspp(changed)).abs().amax(dim=1) > 0).float().mean() > 0.9
    for parameter in aspp.image.parameters():
        nn.init.zeros_(parameter)
    assert ((aspp(x) - aspp(changed)).abs().amax(dim=1) > 0).sum() <= 2**dims


def test_rates_double_with_the_resolution_and_the_last_stage_has_a_multi_grid() -> None:
    for stride, factor in ((16, 1), (8, 2)):
        net = build(
            "deeplab-v3",
            dims=2,
            in_channels=1,
            classes=2,
            size="tiny",
            backbone="resnet-tiny-bottleneck",
            output_stride=stride,
        )
        rates = [b[0].dilation[0] for b in net.head.module[0].atrous]
        assert rates == [6 * factor, 12 * factor, 18 * factor]
        grid = [unit.path[1][0].dilation[0] for unit in net.encoder.stages[3]]
        assert grid == [2 * factor, 4 * factor]


def test_the_rates_of_deeplab_v3plus_can_be_fitted_to_small_volumes() -> None:
    net = build("deeplab-v3plus", dims=3, in_channels=1, classes=2, size="tiny", rates=(1, 2, 3))
    assert [branch[0][0].dilation for branch in net.head.aspp.atrous] == [(r,) * 3 for r in (1, 2, 3)]


def test_a_wrong_output_stride_is_refused() -> None:
    from medseg.core.errors import UserError

    for name in ("deeplab-v3", "deeplab-v3plus"):
        with pytest.raises(UserError, match="output_stride is 7; it is 8 or 16"):
            build(name, dims=2, in_channels=1, classes=2, output_stride=7)
    with pytest.raises(UserError, match="no backbone 'resnet51', did you mean resnet"):
        build("deeplab-v3", dims=2, in_channels=1, classes=2, backbone="resnet51")


def test_the_decoder_of_deeplab_v3plus_sees_single_low_level_positions() -> None:
    net = build("deeplab-v3plus", dims=2, in_channels=1, classes=2, size="tiny").eval()
    low, deep = torch.randn(1, 8, 16, 16, requires_grad=True), torch.randn(1, 16, 4, 4)
    net.head([low, deep])[0, 0, 8, 8].backward()
    seen = low.grad[0].abs().sum(dim=0) > 0
    assert seen[6:11, 6:11].any()
    assert int(seen.sum()) == int(seen[6:11, 6:11].sum()), "two 3x3 convolutions at a quarter of the image"


def test_the_context_module_starts_as_the_identity_and_sees_67_positions() -> None:
    module = ContextModule(2, 3)
    scores = torch.rand(1, 3, 12, 12)
    torch.testing.assert_close(module(scores), scores)
    for conv in module.convs:
        nn.init.constant_(conv.weight, 0.01)
    assert reach(module, 3) == 67
    large = ContextModule(2, 3, large=True)
    assert (large(scores) - scores).abs().max() < 0.2


@pytest.mark.parametrize("dims", [2, 3])
def test_unshuffling_is_torchs_in_the_plane_and_undone_by_shuffling(dims: int) -> None:
    x = torch.randn(2, 3, *(4, 6, 10)[:dims])
    folded = voxel_unshuffle(x, 2)
    assert torch.equal(voxel_shuffle(folded, 2), x)
    if dims == 2:
        assert torch.equal(folded, torch.nn.functional.pixel_unshuffle(x, 2))


@pytest.mark.parametrize("dims", [2, 3])
def test_voxel_shuffle_puts_channels_where_they_belong(dims: int) -> None:
    x = torch.randn(2, 3 * 2**dims, *(3,) * dims)
    got = voxel_shuffle(x, 2)
    if dims == 2:
        assert torch.equal(got, nn.functional.pixel_shuffle(x, 2))
    else:
        assert torch.equal(got[:, 1, 0::2, 1::2, 1::2], x[:, 8 + 3])
    assert got.shape == (2, 3, *(6,) * dims)


@pytest.mark.parametrize("dims", [2, 3])
def test_each_sub_cell_of_duc_has_scores_of_its_own(dims: int) -> None:
    head = DenseUpsampling(dims, 3, 2, 2, (1, 2))
    for conv in head.convs:
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    nn.init.ones_(head.convs[0].bias[1:2])  # class 0, the second sub-cell along the last axis
    scores = head(torch.randn(1, 3, *(4,) * dims))
    expected = torch.zeros(1, 2, *(8,) * dims)
    expected[(0, 0, *(slice(0, None, 2),) * (dims - 1), slice(1, None, 2))] = 1.0
    assert torch.equal(scores, expected)


def test_deeplab_v1_keeps_an_eighth_by_dilation() -> None:
    net = build("deeplab-v1", dims=2, in_channels=1, classes=2, size="tiny").eval()
    features = net.encoder(torch.randn(1, 1, 64, 64))
    assert features[-1].shape[2:] == (8, 8)
    assert [conv[0].dilation[0] for conv in net.encoder.stages[4]] == [2, 2, 2]
    assert net.head.module[0][0].dilation == (12, 12)


def test_enet_alternates_its_bottlenecks_and_unpools_where_its_encoder_pooled() -> None:
    net = build("enet", dims=2, in_channels=1, classes=2, size="tiny").eval()
    middles = [unit.branch[1] for unit in net.stage23]
    kinds = ["x" if len(m) == 2 else m[0].dilation[0] for m in middles]
    assert kinds == [1, 2, "x", 4, 1, 8, "x", 16] * 2
    given: list[torch.Tensor] = []
    made: list[torch.Tensor] = []
    for up in (net.up2, net.up1):
        up.register_forward_pre_hook(lambda _module, inputs: given.append(inputs[1]))
    for down in (net.down2, net.down1):
        down.register_forward_hook(lambda _module, _inputs, out: made.append(out[1]))
    net(torch.randn(1, 1, 32, 32))
    assert [id(places) for places in given] == [id(places) for places in reversed(made)]
    up = net.up1
    nn.init.zeros_(up.branch[-2][1].weight)
    nn.init.zeros_(up.branch[-2][1].bias)
    nn.init.constant_(up.main[1].bias, 9.0)
    x = torch.rand(1, up.main[0].in_channels, 4, 4)
    _, places = nn.functional.max_pool2d(
        torch.randn(1, up.main[0].out_channels, 8, 8), 2, return_indices=True
    )
    at = up(x, places).flatten(2)
    found = torch.zeros_like(at).scatter(2, places.flatten(2), 1.0)
    assert torch.equal(at > 0, found > 0)


def test_hybrid_dilation_leaves_no_holes_and_equal_dilation_does() -> None:
    def covered(rates: tuple[int, ...]) -> float:
        chain = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=r, dilation=r, bias=False) for r in rates))
        for conv in chain:
            nn.init.ones_(conv.weight)
        x = torch.zeros(1, 1, 41, 41, requires_grad=True)
        chain(x)[0, 0, 20, 20].backward()
        hits = (x.grad[0, 0] != 0).nonzero()
        low, high = hits.amin(dim=0), hits.amax(dim=0)
        return len(hits) / float((high - low + 1).prod())

    assert covered((2, 2, 2)) < 0.3
    assert covered((1, 2, 5)) == 1.0
    net = build("duc-hdc", dims=2, in_channels=1, classes=2, size="tiny")
    assert [u.path[1][0].dilation[0] for u in net.encoder.stages[3]] == [5, 9]
    assert [u.path[1][0].dilation[0] for u in net.encoder.stages[2]] == [1, 2]


def test_dense_atrous_layers_see_further_than_the_largest_rate_alone() -> None:
    from medseg.zoo.dilated.dense_aspp import DenseASPPHead

    head = DenseASPPHead(2, 4, 2, (3, 6, 12, 18, 24), (8, 8), 0.0).eval()
    assert reach(head, 4, side=201) == 2 * (3 + 6 + 12 + 18 + 24) + 1
    assert [layer[0][0].num_features for layer in head.layers[1:]] == [12, 20, 28, 36]
    assert head.classify[1].in_channels == 44, "scores see the features and all layers"


def test_the_features_that_denseaspp_shares_have_passed_a_norm() -> None:
    net = build("dense-aspp", dims=2, in_channels=1, classes=2, size="tiny").train()
    seen: list[torch.Tensor] = []
    net.head.module[1].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        net(1000 * torch.randn(2, 1, 64, 64))
    before_relu = net.head.module[0][1]
    assert isinstance(before_relu, nn.BatchNorm2d)
    assert seen[0].min() == 0
    assert seen[0].max() < 12, "not a thousand times as large"
    dropped = [m for m in net.head.modules() if "Dropout" in type(m).__name__]
    assert len(dropped) == 6
    assert all(isinstance(m, nn.Dropout2d) for m in dropped), "whole channels"


def test_the_thin_part_of_enets_bottlenecks_is_a_quarter_of_what_leaves_them() -> None:
    with torch.device("meta"):
        net = build("enet", dims=2, in_channels=3, classes=19)
    thin = {
        name: getattr(net, name).branch[0][0].out_channels
        for name in ("down1", "down2", "up2", "up1", "stage5")
    }
    assert thin == {"down1": 16, "down2": 32, "up2": 16, "up1": 4, "stage5": 4}


def test_parsenet_joins_features_of_equal_length_whatever_their_scale() -> None:
    from medseg.zoo.fcn.parsenet import ContextHead, L2Norm

    norm = L2Norm(4)
    x = torch.randn(1, 4, 3, 3)
    torch.testing.assert_close(norm(100 * x), norm(x))
    torch.testing.assert_close(norm(x).norm(dim=1), torch.full((1, 3, 3), 10.0))
    head = ContextHead(2, 2, 2, 64).eval()
    far = torch.randn(1, 2, 64, 64, requires_grad=True)
    head(far)[0, 0, 0, 0].backward()
    assert (far.grad[0, :, 40:, 40:] != 0).any(), "beyond the 25 positions of the local feature"
