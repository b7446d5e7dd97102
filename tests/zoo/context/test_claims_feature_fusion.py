"""What ExFuse claims about fusing features, shown on a small case."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.context.ex_fuse import SemanticEmbedding, average_votes
from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers.shuffle import voxel_shuffle


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_low_level_features_pass_only_where_all_deeper_stages_let_them(dims: int) -> None:
    embed = SemanticEmbedding(dims, 4, (6, 8)).eval()
    x = torch.randn(1, 4, *(8,) * dims)
    deeper = [torch.randn(1, 6, *(4,) * dims), torch.randn(1, 8, *(2,) * dims)]
    mode = "bilinear" if dims == 2 else "trilinear"
    gates = [
        F.interpolate(conv(d), size=(8,) * dims, mode=mode)
        for conv, d in zip(embed.convs, deeper, strict=True)
    ]
    torch.testing.assert_close(embed(x, deeper), x * gates[0] * gates[1])


@pytest.mark.parametrize("dims", [2, 3])
def test_each_position_votes_for_its_neighbours(dims: int) -> None:
    x = torch.zeros(1, 3**dims, *(5,) * dims)
    x[(0, 0, *(2,) * dims)] = 3.0**dims  # the first group: the vote of the position before, along every axis
    votes = average_votes(x)
    assert votes[(0, 0, *(3,) * dims)] == 1
    assert votes.sum() == 1


def test_votes_that_agree_give_their_own_value() -> None:
    scores = torch.randn(1, 2, 6, 6)
    groups = [torch.roll(scores, (1 - i, 1 - j), (2, 3)) for i in range(3) for j in range(3)]
    # What group (i, j) says at p + (i, j) - 1 is about p, so it holds the scores moved there.
    said = [torch.roll(scores, (i - 1, j - 1), (2, 3)) for i in range(3) for j in range(3)]
    inner = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(average_votes(torch.cat(said, dim=1))[inner], scores[inner])
    assert not torch.allclose(average_votes(torch.cat(groups, dim=1))[inner], scores[inner])


def test_the_coarsest_scores_tell_their_own_sub_pixels() -> None:
    net = build("ex-fuse", dims=3, in_channels=1, classes=2, size="tiny")
    assert net.scores[-1][0].ways[0][-1].out_channels == 2 * 8
    assert net.scores[0][0].ways[0][-1].out_channels == 2


@pytest.mark.parametrize("dims", [2, 3])
def test_the_ladder_begins_with_the_sub_pixels_and_ends_with_the_neighbours_votes(dims: int) -> None:
    net = build("ex-fuse", dims=dims, in_channels=1, classes=2, size="tiny").eval()
    coarse, finer, joined = [], [], []
    net.scores[-1].register_forward_hook(lambda _module, _inputs, out: coarse.append(out))
    net.scores[-2].register_forward_hook(lambda _module, _inputs, out: finer.append(out))
    net.refine[0].register_forward_pre_hook(lambda _module, inputs: joined.append(inputs[0]))
    torch.nn.init.zeros_(net.vote.weight)
    torch.nn.init.zeros_(net.vote.bias)
    torch.nn.init.ones_(net.vote.bias[:2])  # the votes for the neighbour behind, along every axis
    with torch.no_grad():
        logits = net(torch.randn(1, 1, *(64 if dims == 2 else 32,) * dims))
    torch.testing.assert_close(joined[0], voxel_shuffle(coarse[0], 2) + finer[0])
    inner = (..., *(slice(1, None),) * dims)
    torch.testing.assert_close(logits[inner], torch.full_like(logits[inner], 3.0**-dims))
    assert not logits[:, :, 0].any(), "before the first row nobody votes"


def test_early_stages_are_given_more_units_and_told_the_classes() -> None:
    with torch.device("meta"):
        net = build("ex-fuse", dims=2, in_channels=3, classes=21)
    assert [len(stage) for stage in net.encoder.stages] == [8, 8, 9, 8]
    assert len(net.semantic) == 3
    tiny = build("ex-fuse", dims=2, in_channels=1, classes=3, size="tiny").train()
    labels = torch.zeros(2, 32, 32, dtype=torch.uint8)
    tiny.training_step(torch.randn(2, 1, 32, 32), labels, lambda outputs, targets: torch.zeros(())).backward()
    signs = [head[-1].bias.grad.sign().tolist() for head in tiny.semantic]
    assert signs == [[-1, 1, 1]] * 3, "only background is there"


@pytest.mark.parametrize(
    ("name", "published"), [("resnext101", 44_177_704), ("resnext101-32x8d", 88_791_336)]
)
def test_resnexts_have_the_published_weights(name: str, published: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in make_resnet(name, 2, 3).parameters()) == published - 2_049_000


def test_an_even_window_is_refused() -> None:
    with pytest.raises(UserError, match="kernel is 5, neighbours 2; both are odd"):
        build("ex-fuse", dims=2, in_channels=1, classes=2, size="tiny", neighbours=2)
