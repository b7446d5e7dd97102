"""What the networks built around an attention block claim of it, shown on small cases."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.core.errors import UserError
from medseg.zoo.attention.dfn import ChannelAttention, class_borders, sigmoid_focal
from medseg.zoo.attention.ha_net import HeightAttention
from medseg.zoo.attention.pan import Decoder, FeaturePyramidAttention, GlobalAttentionUpsample
from medseg.zoo.attention.ran import reverse_mask
from medseg.zoo.build import build
from medseg.zoo.encoders.resnest import make_resnest
from medseg.zoo.layers.point_wise_attention import PointWiseAttention, full_attention
from medseg.zoo.layers.split_attention import SplitAttention
from medseg.zoo.outputs import Outputs


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("cardinality", [1, 2])
def test_split_attention_computes_its_equations(dims: int, cardinality: int) -> None:
    layer = SplitAttention(dims, 4, radix=2, cardinality=cardinality).eval()
    x = torch.randn(1, 4, *(5,) * dims)
    u = layer.splits(x)
    first, second = u[:, :4], u[:, 4:]
    scores = layer.weigh((first + second).flatten(2).mean(2)[(..., *(None,) * dims)]).flatten()
    each = scores.reshape(cardinality, 2, 4 // cardinality)  # a group, its splits, its channels
    a = torch.softmax(each, dim=1).permute(1, 0, 2).reshape(2, 4, *(1,) * dims)
    torch.testing.assert_close(layer(x), a[:1] * first + a[1:] * second)


def test_the_image_decides_which_split_of_a_channel_passes() -> None:
    layer = SplitAttention(2, 4).eval()
    both = layer.splits(torch.randn(2, 4, 6, 6)).reshape(2, 2, 4, 6, 6)
    weights = layer.weights(both)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 4, 1, 1))
    assert not torch.allclose(weights[0], weights[1]), "another image, another choice"
    nn.init.zeros_(layer.weigh[1].weight)
    nn.init.zeros_(layer.weigh[1].bias)
    torch.testing.assert_close(layer.weights(both), torch.full((2, 2, 4, 1, 1), 0.5))


@pytest.mark.parametrize(
    ("name", "published"),
    [("resnest50", 27.48e6), ("resnest101", 48.28e6), ("resnest200", 70.20e6), ("resnest269", 110.93e6)],
)
def test_resnests_have_the_published_weights(name: str, published: float) -> None:
    with torch.device("meta"):
        net = make_resnest(name, 2, 3)
    assert sum(p.numel() for p in net.parameters()) + 2_049_000 == pytest.approx(published, rel=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_a_resnest_has_the_channels_and_strides_it_declares(dims: int, output_stride: int) -> None:
    with torch.device("meta"):
        net = make_resnest("resnest-tiny", dims, 1, output_stride)
        features = net(torch.zeros(1, 1, *(64,) * dims))
    assert tuple(f.shape[1] for f in features) == net.channels
    assert tuple(64 // f.shape[2] for f in features) == net.strides
    assert net.strides[-1] == output_stride


@pytest.mark.parametrize("output_stride", [32, 8])
def test_a_resnest_halves_by_pooling_and_pools_where_it_is_dilated_instead(output_stride: int) -> None:
    net = make_resnest("resnest-tiny", 2, 3, output_stride)
    assert all(m.stride == (1, 1) for m in net.stages.modules() if isinstance(m, nn.Conv2d))
    pools = [
        [m.stride for m in stage[0].path.modules() if isinstance(m, nn.AvgPool2d)] for stage in net.stages
    ]
    assert pools == ([[], [2], [2], [2]] if output_stride == 32 else [[], [2], [1], [1]])
    later = [unit for stage in net.stages for unit in stage[1:]]
    assert not any(isinstance(m, nn.AvgPool2d) for unit in later for m in unit.modules())


def test_a_resnest_equals_timm() -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnest14d", pretrained=False, num_classes=0).eval()
    ours = make_resnest("resnest14", 2, 3).eval()
    weights, own = theirs.state_dict(), ours.state_dict()
    assert [tuple(t.shape) for t in weights.values()] == [tuple(t.shape) for t in own.values()]
    ours.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[-1], theirs.forward_features(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_coarser_features_decide_which_channels_of_the_finer_ones_pass(dims: int) -> None:
    block = ChannelAttention(4)
    fine, coarse = torch.randn(1, 4, *(3,) * dims), torch.randn(1, 4, *(3,) * dims)
    means = torch.cat([fine, coarse], dim=1).flatten(2).mean(2)
    first, second = block.excite[0], block.excite[2]
    weights = torch.sigmoid(second(torch.relu(first(means)))).reshape(1, 4, *(1,) * dims)
    torch.testing.assert_close(block(fine, coarse), weights * fine + coarse)
    other = block(fine, coarse + 1) - (coarse + 1)
    assert not torch.allclose(other, weights * fine), "another coarse signal, other weights"


@pytest.mark.parametrize("dims", [2, 3])
def test_a_border_is_where_another_class_is_near_and_ignored_voxels_count_nothing(dims: int) -> None:
    labels = torch.zeros(1, 1, *(12,) * dims, dtype=torch.uint8)
    labels[..., 6:] = 2
    labels[..., 11:] = 255
    border, known = class_borders(labels, 2)
    line = border[(0, *(5,) * (dims - 1))]
    assert line.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 1, 1]
    assert known[(0, *(5,) * (dims - 1))].tolist() == [True] * 11 + [False]
    net = build("dfn", dims=dims, in_channels=1, classes=3, size="tiny")
    logits = torch.zeros(1, 4, *(12,) * dims)
    before = net.border_loss(logits, labels[:, 0])
    logits[..., 11:] = 50.0
    torch.testing.assert_close(net.border_loss(logits, labels[:, 0]), before)


def test_the_focal_loss_is_its_equation() -> None:
    logits, target = torch.randn(50), (torch.rand(50) > 0.5).float()
    p = torch.sigmoid(logits)
    positive = -0.25 * (1 - p) ** 2 * p.log()
    negative = -0.75 * p**2 * (1 - p).log()
    torch.testing.assert_close(sigmoid_focal(logits, target), torch.where(target > 0, positive, negative))


def test_dfn_adds_a_tenth_of_the_border_loss_and_needs_no_border_to_predict() -> None:
    net = build("dfn", dims=2, in_channels=1, classes=3, size="tiny")
    image, target = torch.randn(2, 1, 32, 32), torch.randint(0, 3, (2, 32, 32))
    seen = []

    def objective(outputs: Outputs, labels: torch.Tensor) -> torch.Tensor:
        seen.append(outputs)
        return outputs.main.new_zeros(())

    loss = net.training_step(image, target, objective)
    torch.testing.assert_close(loss, 0.1 * net.border_loss(seen[0].extras["borders"], target))
    assert seen[0].auxiliary_weights == (1.0, 1.0, 1.0)
    loss.backward()
    assert net.encoder.stages[0][0].path[0][0].weight.grad is not None, "borders train the backbone"
    net.eval()
    before = net(image)
    nn.init.zeros_(net.border_heads[-1][-1].weight)
    torch.testing.assert_close(net(image), before)


@pytest.mark.parametrize("dims", [2, 3])
def test_pyramid_attention_weighs_positions_and_the_coarse_mean_weighs_channels(dims: int) -> None:
    pyramid = FeaturePyramidAttention(dims, 6, 4).eval()
    x = torch.randn(1, 6, *(8,) * dims)
    ratio = (
        pyramid(x) - pyramid.whole(x.mean(dim=tuple(range(2, dims + 2)), keepdim=True))
    ) / pyramid.middle(x)
    seen = pyramid.attention(x).expand_as(ratio)[ratio.isfinite()]
    torch.testing.assert_close(ratio[ratio.isfinite()], seen, rtol=1e-3, atol=1e-4)
    up = GlobalAttentionUpsample(dims, 6, 4).eval()
    coarse = torch.randn(1, 4, *(4,) * dims)
    weights = torch.sigmoid(up.weigh[0](coarse.flatten(2).mean(2)[(..., *(None,) * dims)]))
    raised = up(x, coarse) - weights * up.reduce(x)
    torch.testing.assert_close(raised[(0, slice(None), *(0,) * dims)], coarse[(0, slice(None), *(0,) * dims)])


def test_pan_equals_segmentation_models() -> None:
    peer = pytest.importorskip("segmentation_models_pytorch.decoders.pan.decoder")
    theirs = peer.PANDecoder((3, 64, 16, 32, 64, 128), 5, 32).eval()
    ours = Decoder(2, (16, 32, 64, 128), 2, 32).eval()
    ours.classify = nn.Identity()
    fpa, pyramid = theirs.fpa, ours.pyramid
    pairs = [
        (pyramid.whole, fpa.branch1[1]), (pyramid.middle, fpa.mid[0]),
        (pyramid.down[0], fpa.down1[1]), (pyramid.down[1], fpa.down2[1]), (pyramid.down[2], fpa.down3[1]),
        (pyramid.across[0], fpa.conv1), (pyramid.across[1], fpa.conv2), (pyramid.across[2], fpa.down3[2]),
    ]  # fmt: skip
    for up, gau in zip(ours.up, (theirs.gau3, theirs.gau2, theirs.gau1), strict=True):
        pairs += [(up.weigh[0], gau.conv1[1]), (up.reduce, gau.conv2)]
    for our, their in pairs:
        our[0].load_state_dict(their.conv.state_dict())
        our[1].load_state_dict(their.bn.state_dict())
    sizes = ((3, 128), (64, 64), (16, 32), (32, 16), (64, 8), (128, 8))
    features = [torch.randn(1, c, n, n) for c, n in sizes]
    with torch.no_grad():
        torch.testing.assert_close(ours(features[2:]), theirs(features))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_scales_are_summed_with_weights_of_the_positions(dims: int) -> None:
    net = build("attention-to-scale", dims=dims, in_channels=1, classes=2, size="tiny").eval()
    features = [torch.rand(1, 8, *(n,) * dims) for n in (4, 3, 2)]
    weights = net.weights(features)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(1, *(4,) * dims))
    nn.init.normal_(net.attention[-1].weight)
    spread = net.weights(features).flatten(2).std(dim=2)
    assert float(spread.detach().max()) > 1e-4, "weights differ between positions"


def test_a_scale_that_gets_all_attention_is_the_answer() -> None:
    net = build("attention-to-scale", dims=2, in_channels=1, classes=2, size="tiny")
    with torch.no_grad():
        net.attention[-1].bias.copy_(torch.tensor([0.0, 0.0, 80.0]))
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    image = torch.randn(1, 1, 32, 32)
    outputs = net(image)
    assert [tuple(s.shape[2:]) for s in outputs.auxiliary] == [(4, 4), (3, 3), (2, 2)]
    coarsest = nn.functional.interpolate(outputs.auxiliary[2], size=(4, 4), mode="bilinear")
    expected = nn.functional.interpolate(coarsest, size=(32, 32), mode="bilinear")
    torch.testing.assert_close(outputs.main, expected)


def test_one_scale_leaves_nothing_to_attend_to() -> None:
    with pytest.raises(UserError, match="at least two"):
        build("attention-to-scale", dims=2, in_channels=1, classes=2, scales=(1.0,))


def test_the_reverse_score_counts_where_the_original_is_weak() -> None:
    scores = torch.tensor([0.0, 0.1, 1.0, 20.0])
    normalised, simple = reverse_mask(scores, "normalised"), reverse_mask(scores, "simple")
    assert (normalised.diff() < 0).all()
    assert (simple.diff() < 0).all()
    torch.testing.assert_close(normalised[0], torch.sigmoid(torch.tensor(4.0)))
    assert float(reverse_mask(torch.tensor(1e6), "normalised")) == pytest.approx(0.018, abs=1e-3)


@pytest.mark.parametrize("mask", ["normalised", "simple"])
def test_reverse_attention_settles_what_the_original_branch_leaves_open(mask: str) -> None:
    net = build("ran", dims=2, in_channels=1, classes=2, size="tiny", mask=mask).eval()
    with torch.no_grad():
        for part in (net.original, net.reverse):
            part.weight.zero_()
        net.original.bias.copy_(torch.tensor([0.2, 0.1]))  # nearly open, for class 0
        net.reverse.bias.copy_(torch.tensor([1.0, -1.0]))  # certainly not class 0
        logits = net(torch.randn(1, 1, 16, 16))
    assert (logits.argmax(dim=1) == 1).all()
    original = net.original.bias[:, None, None]
    expected = original - reverse_mask(original, mask) * net.reverse.bias[:, None, None]
    torch.testing.assert_close(logits[0], expected.expand(2, 16, 16))


def test_an_unknown_mask_is_refused() -> None:
    with pytest.raises(UserError, match="'hard'; it is normalised or simple"):
        build("ran", dims=2, in_channels=1, classes=2, size="tiny", mask="hard")


@pytest.mark.parametrize(("size", "mask"), [((3, 4), (5, 7)), ((3, 2, 2), (5, 3, 3)), ((4, 5), (3, 3))])
def test_the_weight_of_a_position_for_another_is_that_of_their_offset(
    size: tuple[int, ...], mask: tuple[int, ...]
) -> None:
    total = int(torch.tensor(mask).prod())
    relative = torch.randn(1, total, *size)
    full = full_attention(relative, mask).reshape(*size, *size)
    folded = relative[0].reshape(*mask, *size)
    for p in torch.cartesian_prod(*(torch.arange(n) for n in size)).tolist():
        for q in torch.cartesian_prod(*(torch.arange(n) for n in size)).tolist():
            steps = [b - a + m // 2 for a, b, m in zip(p, q, mask, strict=True)]
            inside = all(0 <= s < m for s, m in zip(steps, mask, strict=True))
            expected = folded[(*steps, *p)] if inside else torch.tensor(0.0)
            assert full[(*q, *p)] == expected


def test_collecting_and_distributing_are_two_directions() -> None:
    module = PointWiseAttention(2, 4, 3, (7, 7)).eval()
    x = torch.randn(1, 3, 3, 3)
    flat, here = x.flatten(2)[0], 4
    logits = full_attention(module.predict[0](x), (7, 7))[0]
    collected = flat @ torch.softmax(logits[:, here], dim=0)
    torch.testing.assert_close(module.collect(x).flatten(2)[0, :, here], collected)
    logits = full_attention(module.predict[1](x), (7, 7))[0]
    distributed = flat @ torch.softmax(logits[here], dim=0)
    torch.testing.assert_close(module.distribute(x).flatten(2)[0, :, here], distributed)


def test_every_position_of_psanet_hears_of_every_other() -> None:
    module = PointWiseAttention(2, 4, 4, (15, 15), shrink=1).eval()
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    module(x)[0, 4:, 0, 0].sum().backward()
    assert bool((x.grad[0].abs().sum(dim=0) > 0).all())
    with pytest.raises(UserError, match="an odd number"):
        build("psa-net", dims=2, in_channels=1, classes=2, size="tiny", mask=6)


@pytest.mark.parametrize(("dims", "axis"), [(2, 0), (3, 2), (3, 0)])
def test_height_attention_sees_rows_alone(dims: int, axis: int) -> None:
    module = HeightAttention(6, 4, axis, rows=8, reduction=2).eval()
    x = torch.randn(1, 6, *(8,) * dims)
    weights = module(x)
    assert weights.shape == (1, 4, 8)
    other = 2 + (axis + 1) % dims
    torch.testing.assert_close(module(x.roll(3, dims=other)), weights)
    gated = module.weigh(weights, torch.ones(1, 4, *(8,) * dims)).movedim(2 + axis, 2).flatten(3)
    torch.testing.assert_close(gated, weights[..., None].expand_as(gated))


def test_rows_are_told_apart_by_their_position() -> None:
    module = HeightAttention(6, 4, 0, rows=16, reduction=2).eval()
    alike = torch.ones(1, 6, 32, 4)
    inner = slice(3, -3)  # away from the zeros that pad the 1D convolutions
    assert float(module(alike)[..., inner].detach().std(dim=2).max()) > 1e-3
    module.table.zero_()
    assert float(module(alike)[..., inner].detach().std(dim=2).max()) < 1e-6


def test_four_height_modules_cost_about_a_million_weights() -> None:
    with torch.device("meta"):
        net = build("ha-net", dims=2, in_channels=3, classes=19)
    assert len(net.height) == 4
    assert sum(p.numel() for p in net.height.parameters()) < 1.3e6
    with pytest.raises(UserError, match="axis is 2; it is 0 to 1"):
        build("ha-net", dims=2, in_channels=1, classes=2, size="tiny", axis=2)
