"""What WRN-38 claims: few units, reached by many short paths, at an eighth of the image."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.encoders.wide_resnet import PreUnit, WideResNet


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_wide_unit_passes_its_input_on_untouched(dims: int) -> None:
    unit = PreUnit(dims, 3, (4, 3), stride=1, dilation=1, dropout=0.0)
    nn.init.zeros_(unit.path[-1].weight)
    x = torch.randn(1, 3, *(5,) * dims)
    assert torch.equal(unit(x), x)


@pytest.mark.parametrize("pools", [True, False])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_wide_features_have_the_declared_channels_and_strides(output_stride: int, pools: bool) -> None:
    for dims in (2, 3):
        with torch.device("meta"):
            net = WideResNet(dims, 1, 8, (1, 1, 1, 1, 1, 1), output_stride, pools)
            features = net(torch.zeros(1, 1, *(64,) * dims))
        assert tuple(f.shape[1] for f in features) == net.channels == (8, 16, 32, 64, 128, 256, 512)
        assert tuple(64 // f.shape[2] for f in features) == net.strides
        assert net.strides[-1] == output_stride


def test_seventeen_units_hold_the_weights_of_the_authors_network() -> None:
    with torch.device("meta"):
        net = WideResNet(2, 3)
    assert sum(len(stage) for stage in net.stages) == 17
    assert sum(p.numel() for p in net.parameters()) == 105_070_912


def test_dilation_keeps_the_view_that_the_missing_strides_would_have_given() -> None:
    def taps(net: WideResNet) -> list[int]:
        return [stage[-1].path[-1 if len(stage[-1].path) == 4 else 3].dilation[0] for stage in net.stages[:4]]

    assert taps(WideResNet(2, 1, 1, (1,) * 6, 8)) == [1, 1, 1, 2]
    assert taps(WideResNet(2, 1, 1, (1,) * 6, 32)) == [1, 1, 1, 1]

    def seen(output_stride: int) -> int:
        net = WideResNet(2, 1, 1, (1,) * 6, output_stride).eval()
        x = torch.randn(1, 1, 512, 16, requires_grad=True)
        feature = net(x)[-1]
        feature[0, :, feature.shape[2] // 2].sum().backward()
        rows = (x.grad[0, 0] != 0).any(dim=1).nonzero()
        return int(rows.max() - rows.min())

    assert seen(8) > 0.8 * seen(32)


def test_an_output_stride_beyond_the_network_is_refused() -> None:
    with pytest.raises(ValueError, match="output_stride is 4; it is 8, 16 or 32"):
        WideResNet(2, 1, output_stride=4)
    with pytest.raises(UserError, match="no argument 'widht', did you mean width"):
        build("wide-resnet", dims=2, in_channels=1, classes=2, size="tiny", widht=4)


def test_the_classifier_of_two_convolutions_is_dilated() -> None:
    with torch.device("meta"):
        net = build("wide-resnet", dims=2, in_channels=3, classes=21)
    first, last = net.head.module[0][0], net.head.module[1]
    assert (first.dilation, last.dilation) == ((12, 12), (12, 12))
    assert (first.out_channels, last.out_channels) == (512, 21)
