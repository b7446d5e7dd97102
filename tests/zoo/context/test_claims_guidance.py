"""What SPGNet claims: the second stage sees features weighed by what the first one predicts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.context.spg_net import Guidance
from medseg.zoo.outputs import Outputs


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_features_pass_where_the_prediction_wants_them(dims: int) -> None:
    guide = Guidance(dims, 2, 2)
    for conv in (guide.predict, guide.excite):
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)
    x = torch.full((1, 2, *(3,) * dims), 20.0)
    x[:, 1] = -20.0
    weighed, logits = guide(x)
    torch.testing.assert_close(logits, x)
    torch.testing.assert_close(weighed[:, 0], x[:, 0])
    assert weighed[:, 1].abs().max() < 1e-6


def test_a_weight_is_its_own_at_each_position_and_channel() -> None:
    guide = Guidance(2, 4, 3)
    x = torch.randn(1, 4, 5, 5)
    weights = guide(x)[0] / x
    assert weights.std(dim=(2, 3)).min() > 0
    assert weights.std(dim=1).min() > 0
    assert ((weights > 0) & (weights < 1)).all()


def test_the_first_prediction_is_trained_on_the_labels_like_the_last() -> None:
    net = build("spg-net", dims=2, in_channels=1, classes=3, size="tiny").train()
    outputs = net(torch.randn(2, 1, 64, 64))
    assert isinstance(outputs, Outputs)
    assert outputs.auxiliary_weights == (1.0,)
    outputs.auxiliary[0].sum().backward()
    assert all(p.grad is None for p in net.stages[1].parameters())
    assert net.guides[0].predict.weight.grad is not None
    assert net.guides[0].excite.weight.grad is None, "supervised before it excites"


@pytest.mark.parametrize("dims", [2, 3])
def test_the_last_stage_listens_to_the_guide_and_to_all_features_of_the_first(dims: int) -> None:
    net = build("spg-net", dims=dims, in_channels=1, classes=2, size="tiny").eval()
    x = torch.randn(1, 1, *(32,) * dims)
    with torch.no_grad():
        before = net(x)
        net.guides[0].excite.bias.fill_(-50.0)
        unguided = net(x)
        assert not torch.allclose(before, unguided), "the guide closed"
        shifted = net(x + 0.5)
        assert not torch.allclose(unguided, shifted), "cross-stage features still pass"
        for level in net.stages[1].cross:
            for way in level:
                nn.init.zeros_(way[1].weight)
        torch.testing.assert_close(net(x), net(x + 0.5))


def test_stages_may_be_added_and_odd_widths_are_refused() -> None:
    net = build("spg-net", dims=2, in_channels=1, classes=2, size="tiny", stages=3).train()
    assert len(net(torch.randn(2, 1, 32, 32)).auxiliary) == 2
    with pytest.raises(UserError, match="width 6; at least 1, and a multiple of 4"):
        build("spg-net", dims=2, in_channels=1, classes=2, size="tiny", width=6)
