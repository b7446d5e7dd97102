"""What the self-attention networks claim, by their equations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.zoo.attention.cc_net import CrissCrossAttention
from medseg.zoo.attention.da_net import ChannelAttention, PositionAttention
from medseg.zoo.attention.ema_net import EMAttention
from medseg.zoo.attention.oc_net import ObjectContext
from medseg.zoo.build import build


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_position_attention_computes_its_equations(dims: int) -> None:
    module = PositionAttention(dims, 8, 2)
    x = torch.randn(1, 8, *(3,) * dims)
    torch.testing.assert_close(module(x), x, msg="it starts as the identity")
    nn.init.constant_(module.gamma, 0.5)
    q, k, v = (f(x).flatten(2)[0] for f in (module.query, module.key, module.value))
    weights = torch.softmax(q.T @ k, dim=1)
    torch.testing.assert_close(module(x), x + 0.5 * (v @ weights.T).reshape(x.shape))


def test_channel_attention_computes_its_equations() -> None:
    module = ChannelAttention()
    x = torch.randn(1, 4, 3, 3)
    nn.init.constant_(module.beta, 2.0)
    flat = x.flatten(2)[0]
    energy = flat @ flat.T
    weights = torch.softmax(energy.max(dim=1, keepdim=True).values - energy, dim=1)
    torch.testing.assert_close(module(x), x + 2.0 * (weights @ flat).reshape(x.shape))


@pytest.mark.parametrize("dims", [2, 3])
def test_criss_cross_attention_gathers_from_the_lines_of_a_position(dims: int) -> None:
    module = CrissCrossAttention(dims, 8)
    nn.init.ones_(module.gamma)
    x = torch.randn(1, 8, *(4, 3, 5)[:dims])
    at = (1, 2, 3)[:dims]
    places = {
        tuple(p if a == axis else i for a, i in enumerate(at))
        for axis in range(dims)
        for p in range(x.shape[2 + axis])
    }
    q, k, v = module.query(x)[0], module.key(x)[0], module.value(x)[0]
    order = sorted(places)
    weights = torch.softmax(torch.stack([q[(slice(None), *at)] @ k[(slice(None), *p)] for p in order]), dim=0)
    expected = sum(w * v[(slice(None), *p)] for w, p in zip(weights, order, strict=True))
    torch.testing.assert_close(module(x)[(0, slice(None), *at)], x[(0, slice(None), *at)] + expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_one_round_an_axis_reaches_every_position_and_one_less_does_not(dims: int) -> None:
    module = CrissCrossAttention(dims, 8)
    nn.init.ones_(module.gamma)

    def seen(rounds: int) -> int:
        x = torch.randn(1, 8, *(4,) * dims, requires_grad=True)
        out = x
        for _ in range(rounds):
            out = module(out)
        out[(0, slice(None), *(0,) * dims)].sum().backward()
        return int((x.grad[0].abs().sum(dim=0) > 0).sum())

    assert seen(dims) == 4**dims
    assert seen(dims - 1) < 4**dims
    assert build("cc-net", dims=dims, in_channels=1, classes=2, size="tiny").head.module.rounds == dims


def test_ccnet_without_its_auxiliary_head_has_the_counted_weights() -> None:
    with torch.device("meta"):
        net = build("cc-net", dims=2, in_channels=3, classes=19)
    auxiliary = sum(p.numel() for p in net.auxiliary.parameters())
    assert sum(p.numel() for p in net.parameters()) - auxiliary == pytest.approx(66.4e6, rel=0.01)


def test_the_object_map_is_symmetric_before_its_softmax() -> None:
    module = ObjectContext(2, 8).eval()
    nn.init.normal_(module.out.weight)
    x = torch.randn(1, 8, 3, 3)
    f, v = module.transform(x).flatten(2)[0], module.value(x).flatten(2)[0]
    similarity = f.T @ f
    torch.testing.assert_close(similarity, similarity.T)
    weights = torch.softmax(similarity / f.shape[0] ** 0.5, dim=1)
    context = module.out((v @ weights.T).reshape(1, -1, 3, 3))
    torch.testing.assert_close(module(x), module.mix(torch.cat([context, x], dim=1)))


def test_em_attention_fits_its_bases_and_rebuilds_with_low_rank() -> None:
    module = EMAttention(2, 6, bases=2, rounds=20)
    centres = torch.nn.functional.normalize(torch.randn(6, 2), dim=0)
    x = (centres[:, torch.arange(40) % 2] * 5 + 0.05 * torch.randn(6, 40))[None]
    module.mu.copy_(torch.nn.functional.normalize(centres + 0.5 * torch.randn(6, 2), dim=0)[None])
    mu, z = module.fit(x)
    assert (mu[0] * centres).sum(dim=0).min() > 0.98, "bases move to the clusters"
    torch.testing.assert_close(z.sum(dim=2), torch.ones(1, 40))
    rebuilt = (mu @ z.transpose(1, 2))[0]
    assert torch.linalg.matrix_rank(rebuilt.detach(), tol=1e-4) <= 2


def test_bases_move_in_training_only() -> None:
    module = EMAttention(2, 4, bases=3)
    start = module.mu.clone()
    module.eval()(torch.randn(2, 4, 5, 5))
    assert torch.equal(module.mu, start)
    module.train()(torch.randn(2, 4, 5, 5))
    assert not torch.equal(module.mu, start)


def test_emanet_has_the_dilations_of_the_authors_last_stage_and_one_head() -> None:
    with torch.device("meta"):
        net = build("ema-net", dims=2, in_channels=3, classes=21)
    assert [unit.path[1][0].dilation[0] for unit in net.encoder.stages[3]] == [2, 8, 16]
    assert {unit.path[1][0].dilation[0] for unit in net.encoder.stages[2][1:]} == {2}
    tiny = build("ema-net", dims=2, in_channels=1, classes=2, size="tiny").train()
    assert isinstance(tiny(torch.randn(2, 1, 32, 32)), torch.Tensor), "nothing else is trained"
