"""What ESANet claims of its two encoders, its factorised units and its upsampling, shown on a small case."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.context.esa_net import WeighedSum
from medseg.zoo.layers.factorised import factorised_conv
from medseg.zoo.layers.upsample import LearnedDoubling
from medseg.zoo.outputs import Outputs


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_depth_is_fused_by_the_weight_of_each_channel() -> None:
    fuse = WeighedSum(4)
    colour, depth = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 6, 6)
    weights = [
        gate.excite(x.mean(dim=(2, 3)))[..., None, None]
        for gate, x in ((fuse.colour, colour), (fuse.depth, depth))
    ]
    torch.testing.assert_close(fuse(colour, depth), weights[0] * colour + weights[1] * depth)


@pytest.mark.parametrize("dims", [2, 3])
def test_depth_reaches_the_logits_at_each_of_the_five_resolutions(dims: int) -> None:
    net = build("esa-net", dims=dims, in_channels=3, classes=2, size="tiny").eval()
    x = torch.randn(1, 3, *(32,) * dims)
    other = x.clone()
    other[:, -1] = torch.randn(1, *(32,) * dims)
    seen: list[bool] = []
    before: list[torch.Tensor] = []
    for fuse in net.fuse:
        fuse.depth.register_forward_hook(lambda _m, _i, out: before.append(out))
    with torch.no_grad():
        first, second = net(x), net(other)
    seen = [not torch.equal(a, b) for a, b in zip(before[:5], before[5:], strict=True)]
    assert seen == [True] * 5
    assert not torch.equal(first, second)


def test_the_colour_encoder_sees_no_depth_but_through_the_fusion() -> None:
    net = build("esa-net", dims=2, in_channels=4, classes=2, size="tiny")
    assert net.colour.entry[0][0].in_channels == 3
    assert net.depth.entry[0][0].in_channels == 1


@pytest.mark.parametrize("dims", [2, 3])
def test_upsampling_starts_as_a_linear_one(dims: int) -> None:
    x = torch.randn(1, 2, *(5,) * dims)
    mode = "bilinear" if dims == 2 else "trilinear"
    linear = F.interpolate(x, scale_factor=2, mode=mode, align_corners=False)
    inner = (..., *(slice(1, -1),) * dims)
    torch.testing.assert_close(LearnedDoubling(dims, 2)(x)[inner], linear[inner])


def test_factors_of_a_unit_have_fewer_weights_than_the_kernel_they_span() -> None:
    steps = factorised_conv(3, 2, 2)
    kernels = [tuple(m.kernel_size) for m in steps if isinstance(m, torch.nn.Conv3d)]
    assert kernels == [(3, 1, 1), (1, 3, 1), (1, 1, 3)]


@pytest.mark.parametrize("dims", [2, 3])
def test_units_of_both_encoders_and_of_the_decoder_are_factorised(dims: int) -> None:
    net = build("esa-net", dims=dims, in_channels=2, classes=2, size="tiny")
    parts = [*net.colour.stages, *net.depth.stages, *(module.refine[1:] for module in net.decoder)]
    for part in parts:
        sizes = {tuple(m.kernel_size) for m in part.modules() if hasattr(m, "kernel_size")}
        factors = {tuple(3 if a == axis else 1 for a in range(dims)) for axis in range(dims)}
        assert sizes - {(1,) * dims} == factors


def test_side_outputs_are_trained_at_an_eighth_a_sixteenth_and_a_thirty_second() -> None:
    net = build("esa-net", dims=2, in_channels=2, classes=3, size="tiny").train()
    outputs = net(torch.randn(2, 2, 64, 64))
    assert isinstance(outputs, Outputs)
    assert [a.shape[2] for a in outputs.auxiliary] == [8, 4, 2]
    assert outputs.auxiliary_weights == (1.0, 1.0, 1.0)


def test_depth_channels_must_leave_one_for_colour() -> None:
    with pytest.raises(UserError, match="depth_channels is 2 of 2; one is left for colour"):
        build("esa-net", dims=2, in_channels=2, classes=2, depth_channels=2)
