"""Muon: what it does to matrices, which weights it takes, and that it equals torch's own where that has one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.config import Optimizer
from medseg.train.muon import Muon, is_kernel, orthogonal
from medseg.train.optimiser import build_optimiser


@pytest.mark.parametrize("shape", [(8, 200), (200, 8), (40, 40)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    made = left.T @ orthogonal([matrix])[0] @ right.T  # in the matrix's own directions
    kept = values / matrix.norm() > 0.01
    assert ((made.diagonal() > 0.6) & (made.diagonal() < 1.25))[kept].all()
    assert (made - torch.diag(made.diagonal())).abs().max() < 1e-2


def test_the_small_gram_matrix_gives_what_the_rounds_on_the_matrix_give():
    matrix = torch.randn(24, 300, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    direct = matrix / matrix.norm()
    for _ in range(5):
        gram = direct @ direct.T
        direct = 3.4445 * direct + (-4.7750 * gram + 2.0315 * gram @ gram) @ direct
    torch.testing.assert_close(orthogonal([matrix])[0], direct)
    torch.testing.assert_close(orthogonal([matrix.T])[0], direct.T)


def test_a_gradient_of_zero_changes_nothing():
    assert (orthogonal([torch.zeros(9, 30)])[0] == 0).all()


def _net() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv3d(1, 16, 3), nn.InstanceNorm3d(16, affine=True), nn.Conv3d(16, 16, 3, groups=16), nn.Conv3d(16, 8, 1),
        nn.ConvTranspose3d(8, 16, 2), nn.Conv3d(16, 3, 1),
    )  # fmt: skip


def test_kernels_are_convolutions_without_groups_that_are_not_narrow():
    assert [is_kernel(layer) for layer in _net()] == [True, False, False, True, True, False]
    assert is_kernel(nn.Linear(30, 10))
    assert not is_kernel(nn.Embedding(30, 10))
    assert not is_kernel(nn.ReLU())
    optimiser = Muon(_net(), 0.1, 0.0, 0.95)
    assert {group["kernels"]: len(group["params"]) for group in optimiser.param_groups} == {True: 3, False: 9}


def _trained(optimiser: torch.optim.Optimizer, net: nn.Module, steps: int = 4) -> dict[str, torch.Tensor]:
    numbers = torch.Generator().manual_seed(5)
    for _ in range(steps):
        for weight in net.parameters():
            weight.grad = torch.randn(weight.shape, generator=numbers)
        optimiser.step()
    return dict(net.named_parameters())


def test_what_is_no_kernel_is_trained_as_adamw_does():
    ours, theirs = _net(), _net()
    after = _trained(Muon(ours, 0.01, 0.1, 0.95), ours)
    expected = _trained(torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1), theirs)
    for name in ("0.bias", "1.weight", "2.weight", "5.weight", "5.bias"):
        torch.testing.assert_close(after[name], expected[name])
    assert not torch.allclose(after["3.weight"], expected["3.weight"])


def test_linear_layers_are_trained_as_torchs_own_muon_trains_them():
    torch_muon = getattr(torch.optim, "Muon", None)
    if torch_muon is None:
        pytest.skip("torch has Muon since 2.9")
    torch.manual_seed(6)
    ours = nn.Linear(60, 20, bias=False)
    theirs = nn.Linear(60, 20, bias=False)
    theirs.load_state_dict(ours.state_dict())
    before = ours.weight.detach().clone()
    settings = {"lr": 0.05, "weight_decay": 0.1, "momentum": 0.95}
    expected = _trained(torch_muon(theirs.parameters(), **settings, adjust_lr_fn="match_rms_adamw"), theirs)
    moved = _trained(Muon(ours, **settings), ours)["weight"] - before
    wanted = expected["weight"] - before
    # Its rounds are in bfloat16: an eighth bit, carried on by the quintic.
    assert (moved - wanted).norm() < 0.03 * wanted.norm()


def test_an_update_has_the_size_of_adamws():
    net = nn.Conv3d(16, 32, 3, bias=False)
    before = net.weight.detach().clone()
    _trained(Muon(net, 0.01, 0.0, 0.95), net, steps=1)
    size = (net.weight.detach() - before).square().mean().sqrt()
    assert 0.7 * 0.2 * 0.01 < size < 1.2 * 0.2 * 0.01


def test_its_momentum_is_its_own():
    net = _net()
    assert build_optimiser(Optimizer(name="muon"), net).defaults["momentum"] == 0.95
    assert build_optimiser(Optimizer(name="sgd"), net).defaults["momentum"] == 0.99
    assert build_optimiser(Optimizer(name="muon", momentum=0.9), net).defaults["momentum"] == 0.9
