"""What LS-DeconvNet claims: borders of the raw image stay borders, and a gate chooses the modality voxel by voxel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.encoder_decoder.ls_deconvnet import affinity, cues_of, local_pool, local_unpool, window
from medseg.zoo.outputs import Outputs


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def halves(dims: int, side: int, border: int) -> torch.Tensor:
    """0 before `border` along the first axis, 20 from there."""
    x = torch.zeros(1, 1, *(side,) * dims)
    x[:, :, border:] = 20.0
    return x


@pytest.mark.parametrize("dims", [2, 3])
def test_unpooling_recovers_a_border_that_the_coarse_map_cannot_show(dims: int) -> None:
    fine = halves(dims, 8, 3)
    coarse = nn.functional.avg_pool2d(fine, 2) if dims == 2 else nn.functional.avg_pool3d(fine, 2)
    scores = (coarse > 5).float()
    up = local_unpool(scores, coarse, fine)
    middle = up[(0, 0, slice(None), *(4,) * (dims - 1))]
    assert (middle[:3] < 0.01).all(), "up to the border, though the coarse voxel over it says 1"
    assert (middle[4:] > 0.99).all()
    blind = local_unpool(scores, 0 * coarse, 0 * fine)
    assert blind[(0, 0, 2, *(4,) * (dims - 1))] > 0.2, "without cues the border is lost"


@pytest.mark.parametrize("dims", [2, 3])
def test_a_voxel_unlike_all_around_it_takes_from_those_around_it_and_not_nothing(dims: int) -> None:
    fine, coarse = torch.zeros(1, 1, *(8,) * dims), torch.zeros(1, 1, *(4,) * dims)
    place = (0, 0, *(3,) * dims)
    fine[place] = 50.0  # metal in a scan
    up = local_unpool(torch.full_like(coarse, 7.0), coarse, fine)
    torch.testing.assert_close(up[place], torch.tensor(7.0))
    assert torch.isfinite(up).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_pooling_does_not_mix_what_lies_on_both_sides_of_a_border(dims: int) -> None:
    cues = halves(dims, 8, 4)
    x = torch.randn(1, 2, *(8,) * dims)
    x[:, :, 4:] += 100.0
    pooled = local_pool(x, cues)
    assert pooled[:, :, :4].max() < 5
    assert pooled[:, :, 4:].min() > 95
    plain = local_pool(x, torch.zeros_like(cues))
    assert plain[:, :, 3].min() > 10
    inner = plain[(0, 0, *(2,) * dims)]
    offsets = window(dims)
    expected = sum(x[(0, 0, *(2 + o for o in offset))] for offset in offsets) / len(offsets)
    torch.testing.assert_close(inner, expected)


def test_affinity_does_not_depend_on_the_units_of_the_image() -> None:
    image = torch.randn(1, 2, 8, 8)
    one, two = cues_of(image, 2), cues_of(image * torch.tensor([3.0, 0.1])[None, :, None, None] + 7, 2)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(affinity(a, a.flip(2)), affinity(b, b.flip(2)))


def test_the_gate_decides_for_each_voxel_and_class_which_modality_counts() -> None:
    net = build("ls-deconvnet", dims=2, in_channels=3, classes=2, size="tiny").train()
    outputs = net(torch.randn(2, 3, 32, 32))
    assert isinstance(outputs, Outputs)
    colour, depth = outputs.auxiliary
    share = (outputs.main - depth) / (colour - depth)
    assert ((share > 0) & (share < 1)).float().mean() > 0.99
    assert share.std() > 0
    nn.init.zeros_(net.gate[0].weight)
    nn.init.constant_(net.gate[0].bias, 50.0)
    outputs = net(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(outputs.main, outputs.auxiliary[0])


def test_depth_is_the_last_channel() -> None:
    net = build("ls-deconvnet", dims=2, in_channels=4, classes=2, size="tiny")
    assert net.colour.encoder.stages[0][0][0].in_channels == 3
    assert net.depth.encoder.stages[0][0][0].in_channels == 1
    with pytest.raises(UserError, match="depth_channels is 4 of 4; one is left for colour"):
        build("ls-deconvnet", dims=2, in_channels=4, classes=2, size="tiny", depth_channels=4)


@pytest.mark.parametrize(("stride", "steps"), [(32, 5), (8, 3)])
def test_each_halving_of_the_network_below_gets_one_locality_sensitive_step_up(
    stride: int, steps: int
) -> None:
    net = build("ls-deconvnet", dims=3, in_channels=2, classes=2, size="tiny", output_stride=stride).eval()
    assert net.divisor == (stride,) * 3
    assert len(net.colour.deconvs) == len(net.depth.deconvs) == steps
    image = torch.randn(1, 2, 32, 32, 32)
    assert net.colour.encoder(image[:, :1])[-1].shape[2:] == (32 // stride,) * 3
    assert net(image).shape == (1, 2, 32, 32, 32)


def test_strides_that_vgg_does_not_have_are_refused() -> None:
    with pytest.raises(UserError, match="output_stride is 12; it is 8, 16 or 32"):
        build("ls-deconvnet", dims=2, in_channels=2, classes=2, size="tiny", output_stride=12)
