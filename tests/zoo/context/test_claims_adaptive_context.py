"""What ACNet claims about global and local context, shown on a small case."""

from __future__ import annotations

import pytest
import torch

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.context.ac_net import AdaptiveContextBlock, global_gate


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_nearer_to_the_mean_of_the_image_the_more_global_context(dims: int) -> None:
    x = torch.randn(2, 5, *(4,) * dims)
    points = x.flatten(2)
    distance = (points - points.mean(dim=2, keepdim=True)).square().sum(dim=1)
    gate = global_gate(x).flatten(1)
    assert torch.equal(gate.argsort(dim=1, descending=True), distance.argsort(dim=1))
    torch.testing.assert_close(gate.amax(dim=1), torch.ones(2))
    torch.testing.assert_close(global_gate(7 * x), global_gate(x), rtol=1e-3, atol=1e-4)


def test_a_pixel_like_the_whole_image_takes_nothing_local_and_an_unlike_one_nothing_global() -> None:
    block = AdaptiveContextBlock(2, 4, 3, 2, 0.01).eval()
    x = torch.zeros(1, 4, 4, 4)
    x[..., 0, 0] = 50.0
    whole, local = block.contexts(x, torch.randn(1, 3, 4, 4))
    assert (local[..., 1:, :] == 0).all()
    assert (whole[..., 1:, :] != 0).any()
    torch.testing.assert_close(whole[..., 0, 0], torch.zeros(1, 4))
    assert (local[..., 0, 0] != 0).any()


def test_local_context_of_a_pixel_like_the_image_reaches_no_neighbour() -> None:
    block = AdaptiveContextBlock(2, 4, 3, 2, 0.01).eval()
    x, low = torch.zeros(1, 4, 4, 4), torch.randn(1, 3, 4, 4)
    x[..., 0, 0] = 50.0
    other = low.clone()
    other[..., 0, 1] += 5.0
    torch.testing.assert_close(block.contexts(x, other), block.contexts(x, low))


def test_each_block_is_joined_by_a_finer_stage() -> None:
    net = build("ac-net", dims=2, in_channels=1, classes=2, size="tiny").eval()
    features = [f.detach().requires_grad_() for f in net.encoder(torch.randn(1, 1, 64, 64))]
    logits = net.head(features)
    assert logits.shape == (1, 2, 16, 16), "the grid of stage 2"
    logits.sum().backward()
    assert all((f.grad != 0).any() for f in features)


def test_rounds_share_one_convolution() -> None:
    with torch.device("meta"):
        counts = {
            sum(
                p.numel()
                for p in build("ac-net", dims=2, in_channels=1, classes=2, size="tiny", rounds=n).parameters()
            )
            for n in (1, 3)
        }
    assert len(counts) == 1


def test_a_gate_without_width_is_refused() -> None:
    with pytest.raises(UserError, match=r"delta 0; rounds is at least 1, delta above 0"):
        build("ac-net", dims=2, in_channels=1, classes=2, size="tiny", delta=0)
