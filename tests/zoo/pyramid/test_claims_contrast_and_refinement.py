"""Claims of the pyramid networks that contrast, reconstruct and intertwine."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medseg.zoo.build import build
from medseg.zoo.pyramid.ccn import ContextContrast, GatedSum, tapped
from medseg.zoo.pyramid.lrr import Reconstruction, border_mask, class_bases, half_space_bases
from medseg.zoo.pyramid.msci import Routes


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_what_looks_like_its_surroundings_leaves_no_contrast(dims: int) -> None:
    block = ContextContrast(dims, 1).eval()
    for conv in (block.local, block.context):  # equal filters that take the middle
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
        conv.weight.data[(0, 0, *(1,) * dims)] = 1.0
    x = torch.ones(1, 1, *(21,) * dims)
    x[(0, 0, *(10,) * dims)] = 2.0  # one small thing
    out = block(x)[0, 0]
    middle = (10,) * dims
    assert out[middle] > 0.9
    assert out[(5,) * dims] < 1e-4, "a plain place stands out from nothing"


def gated(sources: int, classes: int = 2) -> GatedSum:
    return GatedSum(2, [3] * sources, 4, classes, before=False).eval()


def test_the_gated_sum_weighs_each_position_by_itself() -> None:
    total = gated(2)
    features = [torch.randn(1, 3, 4, 4) for _ in range(2)]
    step = nn.Conv2d(2, 1, 1)
    weights, state = total.weights(features, step, None)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(1, 4, 4))
    assert weights.std(dim=(2, 3)).min() > 1e-5, "gates differ from place to place"
    scores = [score(f) for score, f in zip(total.scores, features, strict=True)]
    expected = 2 * sum(s * weights[:, i : i + 1] for i, s in enumerate(scores))
    torch.testing.assert_close(total(features, step, None)[0], expected)
    gates = [gate(f) for gate, f in zip(total.gates, features, strict=True)]
    first = torch.tanh(total.first(gates[0]))
    torch.testing.assert_close(state, torch.tanh(step(torch.cat([first, gates[1]], dim=1))))


def test_a_gate_knows_the_gates_before_it() -> None:
    total, step = gated(2), nn.Conv2d(2, 1, 1)
    nn.init.constant_(step.weight, 0.5)
    features = [torch.randn(1, 3, 2, 2) for _ in range(2)]
    other = [torch.randn(1, 3, 2, 2), features[1]]
    assert not torch.equal(total.weights(features, step, None)[1], total.weights(other, step, None)[1])


def test_scores_come_from_the_units_the_authors_take() -> None:
    assert tapped(3, 3) == (0, 1, 2)
    assert tapped(23, 2) == (0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22)
    assert tapped(36, 2)[-3:] == (30, 33, 35)
    assert tapped(4, 1) == (0, 1, 2, 3)
    assert tapped(3, 0) == ()


@pytest.mark.parametrize("dims", [2, 3])
def test_coefficients_spread_shapes_over_a_finer_grid(dims: int) -> None:
    level = Reconstruction(dims, 1, 2, 3)
    shapes = torch.randn(6, 1, *(8,) * dims)
    nn.init.zeros_(level.coefficients.weight)
    level.coefficients.weight.data[(1, 0, *(2,) * dims)] = 1.0  # class 0, its second shape
    x = torch.zeros(1, 1, *(3,) * dims)
    x[(0, 0, *(1,) * dims)] = 2.0
    out = level(x, shapes)
    assert out.shape == (1, 2, *(12,) * dims)
    assert (out[:, 1] == 0).all()
    torch.testing.assert_close(out[(0, 0, *(slice(2, 10),) * dims)], 2 * shapes[1, 0])


def test_the_residual_counts_only_where_coarse_scores_change() -> None:
    scores = torch.zeros(1, 2, 32, 32)
    scores[:, 0, :, :16], scores[:, 1, :, 16:] = 20.0, 20.0
    mask = border_mask(scores)
    assert mask[0, 0, 16, 14:18].min() > 0.99
    assert mask[0, :, :, :10].max() < 1e-6
    net = build("lrr", dims=2, in_channels=1, classes=2, size="tiny").eval()
    sure = torch.zeros(1, 2, 8, 8)
    sure[:, 1] = 50.0  # certain everywhere: nothing finer may speak
    net.levels[0].forward = lambda x, shapes: sure
    for level in net.levels[1:]:
        nn.init.normal_(level.coefficients.weight)
    torch.testing.assert_close(net(torch.randn(1, 1, 64, 64)), nn.functional.interpolate(sure, (64, 64)))


def ovals(count: int = 6) -> Tensor:
    y, x = torch.meshgrid(torch.arange(40), torch.arange(40), indexing="ij")
    return torch.stack([((x - 15 - i) ** 2 + (y - 20) ** 2 < 90).long() for i in range(count)])


def test_shapes_of_the_labels_rebuild_them_better_than_half_spaces_do() -> None:
    labels = ovals()
    shapes = class_bases(labels, 3, count=6, patch=8, samples=400)
    assert shapes.shape == (18, 1, 8, 8)
    torch.testing.assert_close(shapes[12:], torch.from_numpy(half_space_bases(2, 6)))  # no voxel of class 2
    cut = labels.unfold(1, 8, 3).unfold(2, 8, 3).reshape(-1, 64).float()
    cut = cut[cut.mean(dim=1) >= 0.02]

    def left(bases: Tensor) -> float:
        centred = cut - cut.mean(dim=0)
        q, _ = torch.linalg.qr(bases.reshape(6, 64).T)
        return float((centred - centred @ q @ q.T).square().sum())

    assert left(shapes[6:12]) < left(shapes[12:])
    net = build("lrr", dims=2, in_channels=1, classes=3, size="tiny", bases=6)
    net.set_bases(shapes)
    torch.testing.assert_close(net.state_dict()["shapes"], shapes)
    with pytest.raises(ValueError, match="this network takes"):
        net.set_bases(shapes[:3])


def test_lrr_learns_thick_and_thin_forms_of_each_class_beside_its_levels() -> None:
    net = build("lrr", dims=2, in_channels=1, classes=2, size="tiny").train()
    x, labels = torch.randn(1, 1, 64, 64), torch.zeros(1, 64, 64, dtype=torch.long)
    labels[:, 16:48, 16:48] = 1
    outputs = net(x)
    assert outputs.auxiliary_weights == (1.0, 1.0, 1.0)
    assert [a.shape[-1] for a in outputs.auxiliary] == [32, 16, 8]
    loss = net.training_step(x, labels, lambda o, t: o.main.sum() * 0)
    loss.backward()
    assert net.thick.coefficients.weight.grad.abs().sum() > 0
    labels[:] = 255  # nothing known
    assert net.training_step(x, labels, lambda o, t: o.main.sum() * 0) == 0


def test_two_scales_hear_each_other_at_every_step() -> None:
    net = build("msci", dims=2, in_channels=1, classes=2, size="tiny").eval()
    pair = net.rounds[0][0]
    whole = Routes(torch.zeros(1, 8, 8, dtype=torch.long), 1)
    fine, coarse = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 4, 4, requires_grad=True)
    out = pair(fine, coarse, whole)
    assert out.shape == fine.shape
    other = fine + torch.randn_like(fine)

    def last_coarse_state(x: Tensor) -> Tensor:
        seen = {}
        handle = pair.coarse.register_forward_hook(lambda m, i, o: seen.update(h=o[0]))
        pair(x, coarse, whole)
        handle.remove()
        return seen["h"]

    assert not torch.allclose(last_coarse_state(fine), last_coarse_state(other)), (
        "fine context reaches the coarse"
    )
    pair.steps = 1  # at the first step nobody remembers anything yet
    torch.testing.assert_close(last_coarse_state(fine), last_coarse_state(other))


@pytest.mark.parametrize("dims", [2, 3])
def test_context_travels_along_superpixels_that_touch(dims: int) -> None:
    labels = torch.arange(4).repeat_interleave(2).expand(1, *(8,) * dims).contiguous()  # four slabs
    routes = Routes(labels, 4)
    x = torch.zeros(1, 1, *(8,) * dims)
    x[..., :2] = 6.0  # the first slab
    got = routes.gather(x)[(0, 0, *(0,) * (dims - 1))]
    torch.testing.assert_close(got[::2], torch.tensor([3.0, 2.0, 0.0, 0.0]))


def test_maps_are_joined_in_pairs_until_one_is_left() -> None:
    net = build("msci", dims=2, in_channels=1, classes=2, size="tiny")
    assert [len(pairs) for pairs in net.rounds] == [3, 2, 1]
