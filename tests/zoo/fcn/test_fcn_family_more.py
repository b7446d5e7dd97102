"""What the later networks of the fully convolutional family claim, shown on a small case."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from medseg.core.errors import UserError
from medseg.zoo.build import build, parameter_count
from medseg.zoo.catalog import CATALOG
from medseg.zoo.encoders.inception import GOOGLENET, INCEPTIONS, GoogLeNet, InceptionModule, make_googlenet
from medseg.zoo.fcn.anisotropic import MSNet, box_of, dice_distance
from medseg.zoo.fcn.fcn_skin_jaccard import jaccard_distance
from medseg.zoo.fcn.lenet_patch import PATCH
from medseg.zoo.layers.conv import Style
from medseg.zoo.outputs import Outputs

CARDS = {card.name: card for card in CATALOG}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def reach(net: nn.Module, x: Tensor, place: tuple[int, ...]) -> list[int]:
    """How many positions along each axis of x (B, C, *S) the output (B, *S) at `place` sees."""
    x.requires_grad_()
    net(x)[(0, *place)].sum().backward()
    seen = x.grad[0].abs().sum(dim=0) > 0
    found = seen.nonzero()
    return (found.amax(dim=0) - found.amin(dim=0) + 1).tolist()


def test_the_jaccard_distance_is_that_of_the_equation() -> None:
    p, t = torch.rand(2, 1, 5, 6), (torch.rand(2, 1, 5, 6) > 0.7).float()
    both = float((p * t).sum())
    expected = 1 - both / (float((t**2).sum()) + float((p**2).sum()) - both)
    assert float(jaccard_distance(p, t)) == pytest.approx(expected, abs=1e-5)
    assert float(jaccard_distance(t, t)) == pytest.approx(0, abs=1e-5)
    assert float(jaccard_distance(torch.zeros(1, 1, 3), torch.zeros(1, 1, 3))) == pytest.approx(0)


def test_the_jaccard_loss_does_not_drown_a_small_lesion_in_background() -> None:
    net = build("fcn-skin-jaccard", dims=2, in_channels=1, classes=2, size="tiny")
    shares = []
    for side in (16, 128):
        target = torch.zeros(1, side, side, dtype=torch.uint8)
        target[:, 4:8, 4:8] = 1
        logits = torch.zeros(1, 2, side, side)
        logits[:, 0] = torch.where(target == 0, 12.0, 0.0)  # sure and right everywhere but in the lesion
        for loss in (net.loss, lambda o, t: nn.functional.cross_entropy(o, t.long())):
            leaf = logits.clone().requires_grad_()
            loss(leaf, target).backward()
            shares.append(float(leaf.grad[0, 1, 5, 5].abs()))
    jaccard_small, entropy_small, jaccard_large, entropy_large = shares
    assert jaccard_large == pytest.approx(jaccard_small, rel=0.01)
    assert entropy_large == pytest.approx(entropy_small / 64, rel=0.01)


def test_ignored_voxels_and_overlapping_classes_count_as_they_should() -> None:
    net = build("fcn-skin-jaccard", dims=2, in_channels=1, classes=2, size="tiny")
    logits, target = torch.randn(2, 2, 8, 8), torch.randint(0, 2, (2, 8, 8)).to(torch.uint8)
    some = target.clone()
    some[:, :4] = 255
    torch.testing.assert_close(net.loss(logits, some), net.loss(logits[:, :, 4:], target[:, 4:]))
    regions = torch.stack([target, 1 - target], dim=1)
    expected = jaccard_distance(logits.sigmoid(), regions).mean()
    torch.testing.assert_close(net.loss(logits, regions), expected)


def test_the_skin_network_has_nineteen_layers() -> None:
    net = build("fcn-skin-jaccard", dims=2, in_channels=3, classes=2)
    counted = (nn.Conv2d, nn.MaxPool2d, nn.Upsample)
    assert sum(isinstance(m, counted) for m in net.modules()) == 19


@pytest.mark.parametrize("dims", [2, 3])
def test_mfcn_adds_six_scales_and_the_finest_sees_detail_that_the_last_does_not(dims: int) -> None:
    net = build("fcn-iris", dims=dims, in_channels=1, classes=2, size="tiny").eval()
    x = torch.randn(1, 1, *(64 if dims == 2 else 32,) * dims)
    with torch.no_grad():
        maps = net.scores(x)
        ups = [*net.up, net.up[-1]]
        torch.testing.assert_close(net(x), sum(up(m) for up, m in zip(ups, maps, strict=True)))
    assert len(maps) == 6
    assert [x.shape[2] // m.shape[2] for m in maps] == [2, 4, 8, 16, 32, 32]


def test_each_of_the_six_scales_takes_part_in_the_decision() -> None:
    net = build("fcn-iris", dims=2, in_channels=1, classes=2, size="tiny").eval()
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        before = net(x)
        for score in net.score:
            score.bias += 1.0
            after = net(x)
            assert float((after - before)[..., 24:40, 24:40].min()) > 0.9
            before = after


def test_an_anisotropic_network_sees_nine_slices_and_far_within_the_slice() -> None:
    net = MSNet(1, (4, 4, 4, 4), twice=True).eval()
    slices, high, wide = reach(net, torch.randn(1, 1, 15, 96, 96), (7, 48, 48))
    assert slices == 9
    assert min(high, wide) > 80


def test_the_last_network_of_the_cascade_keeps_twice_the_resolution() -> None:
    card = CARDS["fcn-cascade-aniso"]
    net = build(card.name, dims=3, in_channels=1, classes=4, size="tiny")
    halvings = [isinstance(level[0].halve1, nn.Sequential) for level in net.regions]
    assert halvings == [True, True, False]


def cascade(classes: int, **arguments: object) -> nn.Module:
    net = build("fcn-cascade-aniso", dims=3, in_channels=1, classes=classes, size="tiny", **arguments).eval()
    net.around = 0
    return net


class Says(nn.Module):
    """Stands for a network: a region where its image is above a threshold; remembers the sizes it was given."""

    def __init__(self, threshold: float, sure: float = 10.0) -> None:
        super().__init__()
        self.threshold, self.sure = threshold, sure
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(tuple(x.shape[2:]))
        return self.sure * (2.0 * (x[:, 0] > self.threshold) - 1)


def test_a_region_is_looked_for_in_the_box_of_the_one_before_it_only() -> None:
    net = cascade(4)
    for level, threshold in enumerate((2.0, 4.0, -1.0)):
        net.regions[level] = nn.ModuleList(Says(threshold) for _ in net.views)
    x = torch.zeros(1, 1, 16, 16, 16)
    x[..., 4:12, 4:12, 4:12] = 2.5
    x[..., 4:8, 6:8, 8:12] = 5.0
    label = net(x).argmax(dim=1)[0]
    assert [level[0].sizes for level in net.regions] == [[(16,) * 3], [(8,) * 3], [(4,) * 3]]
    assert label[4:8, 6:8, 8:12].eq(3).all()
    assert int((label == 1).sum()) == 8**3 - 4 * 2 * 4
    assert int((label == 0).sum()) == 16**3 - 8**3


def test_probabilities_are_multiplied_down_the_cascade() -> None:
    regions = [torch.randn(2, 3, 4, 5) for _ in range(3)]
    s = [r.sigmoid() for r in regions]
    leaves = [1 - s[0], s[0] * (1 - s[1]), s[0] * s[1] * (1 - s[2]), s[0] * s[1] * s[2]]
    exclusive = torch.softmax(cascade(4).joined(regions), dim=1)
    torch.testing.assert_close(exclusive, torch.stack(leaves, dim=1))
    nested = torch.sigmoid(cascade(3, nested=True).joined(regions))
    expected = torch.stack([s[0], s[0] * s[1], s[0] * s[1] * s[2]], dim=1)
    torch.testing.assert_close(nested, expected, rtol=1e-4, atol=1e-5)


def test_each_view_has_its_own_axis_of_slices() -> None:
    net = cascade(2, views=(2, 0))
    x = torch.randn(1, 1, 8, 12, 16)
    with torch.no_grad():
        one, two = net.view_logits(0, x)
        torch.testing.assert_close(one, net.regions[0][0](x.movedim(4, 2)).movedim(1, 3))
        torch.testing.assert_close(two, net.regions[0][1](x))


def test_views_that_disagree_are_averaged_as_probabilities() -> None:
    net = cascade(2)
    net.regions[0] = nn.ModuleList([Says(0.0, sure=6.0), Says(0.0, sure=-1.0)])
    x = torch.ones(1, 1, 8, 8, 8)
    expected = torch.tensor([6.0, -1.0]).sigmoid().mean()
    torch.testing.assert_close(torch.softmax(net(x), dim=1)[0, 1, 0, 0, 0], expected)


def test_an_image_without_the_outer_region_ends_the_cascade() -> None:
    net = cascade(3)
    net.regions[0] = nn.ModuleList(Says(9.0) for _ in net.views)
    assert not net(torch.randn(1, 1, 8, 8, 8)).argmax(dim=1).any()


def test_the_loss_of_an_inner_region_counts_in_the_box_of_the_outer_one() -> None:
    net = cascade(3).train()
    target = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    target[:, 4:8, 4:8, 4:8] = 1
    target[:, 5:7, 5:7, 5:7] = 2
    outputs = net(torch.randn(1, 1, 16, 16, 16))
    assert isinstance(outputs, Outputs)
    before = net.loss(outputs, target)
    outputs.extras["region1_view0"].data[:, 12:] += 5.0
    torch.testing.assert_close(net.loss(outputs, target), before)
    outputs.extras["region1_view0"].data[:, 4:5] += 5.0
    assert float(net.loss(outputs, target)) > float(before)


def test_boxes_fit_the_divisor_and_stay_inside() -> None:
    mask = torch.zeros(16, 16, 16, dtype=torch.bool)
    assert box_of(mask, 5, (4, 4, 4)) is None
    mask[15, 3, 7] = True
    assert box_of(mask, 1, (4, 4, 4)) == (slice(12, 16), slice(2, 6), slice(6, 10))
    truth = torch.rand(1, 4, 4, 4) > 0.5
    sure = torch.where(truth, 50.0, -50.0)
    assert float(dice_distance(sure, truth, torch.ones_like(truth))) == pytest.approx(0, abs=1e-4)


def test_the_cascade_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UserError, match="at least one region"):
        build("fcn-cascade-aniso", dims=3, in_channels=1, classes=1, size="tiny")
    with pytest.raises(UserError, match="names axes 0, 1, 2"):
        build("fcn-cascade-aniso", dims=3, in_channels=1, classes=2, size="tiny", views=(3,))


@pytest.mark.parametrize("dims", [2, 3])
def test_sliding_at_once_equals_classifying_each_patch_by_itself(dims: int) -> None:
    net = build("lenet-patch", dims=dims, in_channels=2, classes=3, size="tiny").eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0, 0.1)
    size = (5, 7) if dims == 2 else (3, 2, 4)
    x = torch.randn(1, 2, *size)
    padded = net.padded(x)
    with torch.no_grad():
        dense = net(x)
        for place in itertools.product(*(range(0, n, 2) for n in size)):
            patch = padded[(..., *(slice(p, p + PATCH) for p in place))]
            one = net.classify(patch).flatten(1)
            torch.testing.assert_close(dense[(..., *place)], one, rtol=1e-4, atol=1e-5)


def test_lenet_has_the_published_weights_layer_by_layer() -> None:
    net = build("lenet-patch", dims=2, in_channels=1, classes=10)
    layers = (net.c1, net.s2, net.c3, net.s4, net.c5, net.f6)
    counts = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    assert counts == [156, 12, 1516, 32, 48120, 10164]
    assert parameter_count(CARDS["lenet-patch"], dims=2, in_channels=1, classes=10) == 60_000


def test_lenet_prefers_the_class_whose_code_is_nearest() -> None:
    net = build("lenet-patch", dims=2, in_channels=1, classes=4, size="tiny").eval()
    features = torch.randn(84)
    net.f6 = nn.Identity()
    net.c5 = nn.Module()
    net.c5.forward = lambda x, dilation=1: torch.atanh(features / 8).view(1, 84, 1, 1)  # type: ignore[assignment]
    logits = net.classify(torch.randn(1, 1, PATCH, PATCH))[0, :, 0, 0]
    squashed = 1.7159 * torch.tanh(1.7159 * torch.tanh(torch.atanh(features / 8) * 2 / 3) * 2 / 3)
    distances = ((squashed - net.codes) ** 2).sum(dim=1)
    torch.testing.assert_close(logits.diff(), -distances.diff(), rtol=1e-3, atol=1e-3)


def test_patches_are_drawn_on_the_object_for_half_and_carry_the_label_of_their_middle() -> None:
    net = build("lenet-patch", dims=2, in_channels=1, classes=2, size="tiny", patches=40)
    target = torch.zeros(2, 24, 24, dtype=torch.uint8)
    target[:, 20:22, 3:5] = 1
    images = target[:, None].float()
    taken: list[Tensor] = []
    net.classify = lambda x, dense=False: taken.append(x) or torch.zeros(len(x), 2, 1, 1)  # type: ignore[assignment]
    drawn: list[Tensor] = []
    net.training_step(images, target, lambda logits, truth: drawn.extend([logits, truth]) or logits.sum())
    logits, truth = drawn
    assert logits.shape == (2, 2, 40, 1)
    assert truth.shape == (2, 40, 1)
    assert int(truth.sum()) >= 40
    torch.testing.assert_close(taken[0][:, 0, 16, 16], truth.flatten().float())


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("norm", "wide", "published"),
    [
        pytest.param("none", 5, 6_998_552, id="Caffe's model"),
        pytest.param("batch", 3, 6_624_904, id="torchvision"),
    ],
)
def test_googlenet_has_the_published_weights(norm: str, wide: int, published: int) -> None:
    with torch.device("meta"):
        assert count(GoogLeNet(2, 3, norm=norm, wide=wide)) + 1000 * 1024 + 1000 == published


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_a_googlenet_pyramid_has_the_channels_and_strides_it_declares(dims: int, output_stride: int) -> None:
    with torch.device("meta"):
        net = make_googlenet("googlenet-tiny", dims, 1, output_stride)
        features = net(torch.zeros(1, 1, *(64,) * dims))
    assert tuple(f.shape[1] for f in features) == net.channels
    assert tuple(64 // f.shape[2] for f in features) == net.strides


def test_googlenet_keeps_its_resolution_by_dilation() -> None:
    sparse = GoogLeNet(2, 1, INCEPTIONS["googlenet-tiny"], 32).eval()
    dense = GoogLeNet(2, 1, INCEPTIONS["googlenet-tiny"], 8).eval()
    dense.load_state_dict(sparse.state_dict())
    assert dense.strides == (4, 8, 8, 8)
    assert [stage[0].three[1][0].dilation for stage in dense.stages] == [(1, 1), (2, 2), (4, 4)]


def test_an_inception_front_end_sees_as_far_with_a_fraction_of_the_weights() -> None:
    widths, inputs = GOOGLENET[0][0], 192
    module = InceptionModule(2, inputs, widths, Style("none")).eval()
    plain = nn.Conv2d(inputs, module.channels, 5, padding=2)
    place = (slice(None), 8, 8)
    far = [reach(net, torch.randn(1, inputs, 17, 17), place) for net in (module, plain)]
    assert far == [[5, 5], [5, 5]]
    assert count(module) < 0.2 * count(plain)
    ours, vgg = (
        parameter_count(CARDS[name], dims=2, in_channels=3, classes=6)
        for name in ("deeplab-inception-rs", "deeplab-v1")
    )
    assert ours < 0.85 * vgg


def test_an_unknown_inception_backbone_is_named() -> None:
    with pytest.raises(UserError, match="no backbone 'inception9'"):
        build("deeplab-inception-rs", dims=2, in_channels=1, classes=2, backbone="inception9")
