"""What SDN claims: units in a stack refine scores, are joined by skips, and are supervised at every resolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.zoo.build import build
from medseg.zoo.encoder_decoder.sdn import DenseStep
from medseg.zoo.outputs import Outputs


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_each_unit_refines_the_scores_of_the_one_before(dims: int) -> None:
    net = build("sdn", dims=dims, in_channels=1, classes=2, size="tiny", units=3).train()
    for heads in net.heads[1:]:
        for head in heads:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
    outputs = net(torch.randn(2, 1, *(32,) * dims))
    assert isinstance(outputs, Outputs)
    fine = [outputs.main, outputs.auxiliary[2], outputs.auxiliary[5]]
    torch.testing.assert_close(fine[0], fine[1])
    torch.testing.assert_close(fine[1], fine[2])


def test_every_resolution_of_every_unit_is_supervised() -> None:
    net = build("sdn", dims=2, in_channels=1, classes=2, size="tiny", units=3).train()
    outputs = net(torch.randn(2, 1, 32, 32))
    assert outputs.auxiliary_weights == (1.0,) * 8
    outputs.auxiliary[-1].sum().backward()
    assert all(p.grad is None for p in net.up.parameters()), "the coarsest score of the first unit"
    assert next(net.encoder.parameters()).grad is not None


def test_skips_join_the_first_encoder_to_every_decoder_and_each_decoder_to_the_next_encoder() -> None:
    net = build("sdn", dims=2, in_channels=1, classes=2, size="tiny", units=2).eval()
    given: dict[str, list[tuple[int, ...]]] = {"down": [], "up": []}
    for name in given:
        for module in getattr(net, name):
            module.register_forward_hook(
                lambda _m, seen, _o, name=name: given[name].append(tuple(t.shape[2] for t in seen[1]))
            )
    net(torch.randn(1, 1, 64, 64))
    assert given == {"down": [(8, 4)], "up": [(8, 16), (8, 16)]}
    with torch.no_grad():
        before = net(x := torch.randn(1, 1, 64, 64))
        for link in net.links:
            link[2].weight.zero_()
        assert not torch.allclose(before, net(x))


def test_layers_of_a_step_see_all_layers_before_them() -> None:
    step = DenseStep(2, 4, 3, 5)
    assert [layer[0][0].num_features for layer in step.layers] == [4, 7]
    assert step.compress[0].num_features == 10
    assert step(torch.randn(2, 4, 4, 4)).shape == (2, 5, 4, 4)
