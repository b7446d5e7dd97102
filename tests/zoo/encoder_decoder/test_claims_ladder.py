"""What Ladder-DenseNet claims: a lean way up on which every rung learns, and training that keeps little."""

from __future__ import annotations

import copy

import pytest
import torch

from medseg.zoo.build import build
from medseg.zoo.encoder_decoder.ladder_densenet import GridPooling, Rung
from medseg.zoo.outputs import Outputs


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_rung_adds_meaning_to_detail(dims: int) -> None:
    rung = Rung(dims, 4, 3, 4).eval()
    coarse, skip = torch.randn(1, 4, *(2,) * dims), torch.randn(1, 3, *(4,) * dims)
    up = torch.nn.functional.interpolate(
        coarse, scale_factor=2, mode="bilinear" if dims == 2 else "trilinear"
    )
    torch.testing.assert_close(rung(coarse, skip), rung.blend(rung.lateral(skip) + up) + up)
    assert not torch.allclose(rung(coarse, skip), rung(coarse, 0 * skip))


def test_the_way_up_is_lean_beside_the_way_down() -> None:
    with torch.device("meta"):
        net = build("ladder-densenet", dims=2, in_channels=3, classes=19)
    up = sum(p.numel() for p in net.rungs.parameters())
    assert up < 0.3 * sum(p.numel() for p in net.encoder.parameters())


def test_the_middle_of_the_third_block_halves_the_image_once_more() -> None:
    net = build("ladder-densenet", dims=2, in_channels=1, classes=2, size="tiny").eval()
    sizes = []
    for rung in net.rungs:
        rung.register_forward_hook(lambda _m, given, _o: sizes.append((given[0].shape[2], given[1].shape[2])))
    net(torch.randn(1, 1, 128, 128))
    assert sizes == [(2, 4), (4, 8), (8, 16), (16, 32)]
    shallow = build("ladder-densenet", dims=2, in_channels=1, classes=2, size="tiny", split=False)
    assert (net.divisor, shallow.divisor) == ((64, 64), (32, 32))
    assert len(shallow.rungs) == 3


def test_grid_cells_are_about_as_long_as_wide() -> None:
    pool = GridPooling(2, 2, 4, 2).eval()
    cells = []
    for level in pool.levels:
        level.register_forward_hook(lambda _m, given, _o: cells.append(tuple(given[0].shape[2:])))
    pool(torch.randn(1, 2, 16, 32))
    assert cells == [(8, 16), (4, 8), (2, 4), (1, 2)]


def test_every_rung_is_trained_with_four_tenths_of_the_loss_together() -> None:
    net = build("ladder-densenet", dims=2, in_channels=1, classes=2, size="tiny").train()
    outputs = net(torch.randn(2, 1, 128, 128))
    assert isinstance(outputs, Outputs)
    assert [a.shape[2] for a in outputs.auxiliary] == [16, 8, 4, 2]
    assert sum(outputs.auxiliary_weights) == pytest.approx(0.4 / 0.6)


def test_layers_computed_twice_learn_the_same_and_keep_less() -> None:
    plain = build("ladder-densenet", dims=2, in_channels=1, classes=2, size="tiny").train()
    frugal = build(
        "ladder-densenet", dims=2, in_channels=1, classes=2, size="tiny", checkpointing=True
    ).train()
    frugal.load_state_dict(copy.deepcopy(plain.state_dict()))
    x = torch.randn(2, 1, 64, 64)
    kept = {}
    for name, net in (("plain", plain), ("frugal", frugal)):
        held: list[int] = []
        count = lambda t, held=held: (held.append(t.numel()), t)[1]  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            loss = net(x).main.square().mean()
        kept[name] = sum(held)
        loss.backward()
    for (name, one), two in zip(plain.named_parameters(), frugal.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-5, msg=name)
    for (name, one), two in zip(plain.named_buffers(), frugal.buffers(), strict=True):
        if "num_batches" not in name:
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5, msg=name)
    assert kept["frugal"] < 0.8 * kept["plain"]
