"""What each attention paper claims of its block, shown on a small case."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.core.errors import UserError
from medseg.zoo.build import build, find, parameter_count
from medseg.zoo.layers.gates import CBAM, AttentionGate, SqueezeExcite


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_an_attention_gate_computes_its_equations(dims: int) -> None:
    gate = AttentionGate(dims, 4, 6, 3).eval()
    x, signal = torch.randn(1, 4, *(8,) * dims), torch.randn(1, 6, *(4,) * dims)
    joined = torch.relu(gate.theta(x) + gate.phi(signal))
    alpha = torch.sigmoid(gate.psi(joined))
    alpha = nn.functional.interpolate(alpha, scale_factor=2, mode="bilinear" if dims == 2 else "trilinear")
    out, seen = gate(x, signal)
    torch.testing.assert_close(seen, alpha)
    torch.testing.assert_close(out, gate.out(alpha * x))


def test_a_closed_gate_lets_nothing_of_the_skip_through() -> None:
    gate = AttentionGate(2, 4, 4, 4).eval()
    nn.init.zeros_(gate.psi.weight)
    nn.init.constant_(gate.psi.bias, -100.0)
    signal = torch.randn(1, 4, 4, 4)
    one, _ = gate(torch.randn(1, 4, 8, 8), signal)
    other, _ = gate(torch.randn(1, 4, 8, 8), signal)
    torch.testing.assert_close(one, other)


def test_the_attention_u_net_gates_all_skips_but_the_finest() -> None:
    net = build("attention-u-net", dims=2, in_channels=1, classes=2, features=(4, 8, 16, 32)).eval()
    _, maps = net.attend(torch.randn(1, 1, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [(2, 16, 16), (2, 8, 8)]
    assert all(float(m.min()) > 0 and float(m.max()) < 1 for m in maps)
    assert all(not torch.allclose(m[:, 0], m[:, 1]) for m in maps), "two gates, two maps"


@pytest.mark.parametrize("dims", [2, 3])
def test_what_either_gate_lets_through_joins_the_decoder(dims: int) -> None:
    net = build("attention-u-net", dims=dims, in_channels=1, classes=2, size="tiny").eval()
    x = torch.randn(1, 1, *(16,) * dims)
    with torch.no_grad():
        before = net(x)
        for gate in net.gates[0]:
            nn.init.zeros_(gate.psi.weight)
            nn.init.constant_(gate.psi.bias, -100.0)
            closed = net(x)
            assert not torch.allclose(before, closed)
            before = closed
    with pytest.raises(UserError, match="gates is 0; a skip has at least one"):
        build("attention-u-net", dims=dims, in_channels=1, classes=2, size="tiny", gates=0)


def test_the_attention_u_net_has_the_published_weights_with_its_gates_and_without() -> None:
    with torch.device("meta"):
        net = build("attention-u-net", dims=3, in_channels=1, classes=4)
    weights = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    of_paper = sum(weights.values()) - weights["gating"]
    assert of_paper == pytest.approx(6.40e6, rel=0.002)
    assert of_paper - weights["gates"] - weights["combine"] == pytest.approx(5.88e6, rel=0.002)


@pytest.mark.parametrize("dims", [2, 3])
def test_squeeze_and_excitation_scales_whole_channels_by_their_means(dims: int) -> None:
    block = SqueezeExcite(8, 2)
    x = torch.randn(2, 8, *(4,) * dims)
    ratio = (block(x) / x).flatten(2)
    torch.testing.assert_close(ratio.amin(2), ratio.amax(2))
    shuffled = x.flatten(2)[..., torch.randperm(4**dims)].reshape(x.shape)
    torch.testing.assert_close((block(shuffled) / shuffled).flatten(2)[..., 0], ratio[..., 0])


@pytest.mark.parametrize("dims", [2, 3])
def test_cbam_computes_its_equations(dims: int) -> None:
    block = CBAM(dims, 8, 2).eval()
    x = torch.randn(1, 8, *(6,) * dims)
    means, peaks = x.flatten(2).mean(2), x.flatten(2).amax(2)
    channel = torch.sigmoid(block.mlp(means) + block.mlp(peaks)).reshape(1, 8, *(1,) * dims)
    weighed = x * channel
    place = block.spatial(torch.cat([weighed.amax(1, keepdim=True), weighed.mean(1, keepdim=True)], 1))
    torch.testing.assert_close(block(x), weighed * place)


@pytest.mark.parametrize(("name", "block"), [("se-u-net", SqueezeExcite), ("cbam-u-net", CBAM)])
def test_a_block_stands_in_every_stage(name: str, block: type) -> None:
    net = build(name, dims=2, in_channels=1, classes=2, size="tiny")
    stages = [*net.body.encoder, *net.body.decoder]
    assert all(isinstance(stage[-1], block) for stage in stages)


@pytest.mark.parametrize("name", ["se-u-net", "cbam-u-net"])
def test_the_blocks_add_little_to_the_u_net(name: str) -> None:
    form = {"dims": 2, "in_channels": 1, "classes": 2}
    plain = parameter_count(find("u-net"), **form)
    assert plain < parameter_count(find(name), **form) < 1.03 * plain
