"""What the networks made for speed claim, shown on a small case."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.zoo.build import build
from medseg.zoo.outputs import Outputs
from medseg.zoo.realtime.bise_net import AttentionRefinement, FeatureFusion


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_the_spatial_path_keeps_an_eighth_of_the_image() -> None:
    net = build("bise-net", dims=2, in_channels=1, classes=2, size="tiny").eval()
    assert net.spatial(torch.randn(1, 1, 64, 64)).shape[2:] == (8, 8)


@pytest.mark.parametrize("dims", [2, 3])
def test_attention_refinement_weighs_channels_by_the_whole_image(dims: int) -> None:
    module = AttentionRefinement(dims, 3, 4).eval()
    x = torch.randn(1, 3, *(5,) * dims)
    inner = module.conv(x)
    weights = module.weigh(inner.mean(dim=tuple(range(2, dims + 2)), keepdim=True))
    torch.testing.assert_close(module(x), inner * weights)


def test_fusion_joins_both_paths() -> None:
    module = FeatureFusion(2, 6, 6).eval()
    detail, context = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    before = module(detail, context)
    assert not torch.equal(before, module(detail + 1, context))
    assert not torch.equal(before, module(detail, context + 1))


def test_the_context_path_has_losses_of_its_own() -> None:
    net = build("bise-net", dims=2, in_channels=1, classes=2, size="tiny").train()
    outputs = net(torch.randn(2, 1, 64, 64))
    assert isinstance(outputs, Outputs)
    assert outputs.auxiliary_weights == (1.0, 1.0)
    sum(a.sum() for a in outputs.auxiliary).backward()
    assert all(p.grad is None for p in net.spatial.parameters())
    assert isinstance(net.auxiliary, nn.ModuleList)
