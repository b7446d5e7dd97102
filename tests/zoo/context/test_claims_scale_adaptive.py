"""What scale-adaptive convolutions claim, shown on a small case."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medseg.core.errors import UserError
from medseg.zoo.build import build
from medseg.zoo.layers.scale_adaptive import ScaleAdaptiveConv


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_whole_factor_gives_the_dilated_convolution(dims: int, factor: int) -> None:
    layer = ScaleAdaptiveConv(dims, 3, 4, dilation=2, bias=True)
    nn.init.constant_(layer.scale.bias, float(factor))
    x = torch.randn(2, 3, *(7, 6, 5)[:dims])
    conv = F.conv2d if dims == 2 else F.conv3d
    rate = 2 * factor
    torch.testing.assert_close(layer(x), conv(x, layer.weight, layer.bias, padding=rate, dilation=rate))


def test_the_receptive_field_differs_from_place_to_place() -> None:
    layer = ScaleAdaptiveConv(2, 2, 1)
    nn.init.ones_(layer.weight)
    with torch.no_grad():
        layer.scale.weight[0, 1, 1, 1] = 1.0  # the second channel says how much wider
    x = torch.randn(1, 2, 17, 17)
    x[:, 1, :, :8], x[:, 1, :, 8:] = 0.0, 2.0
    x.requires_grad_()
    out = layer(x)

    def rows_seen(column: int) -> list[int]:
        seen = torch.autograd.grad(out[0, 0, 8, column], x, retain_graph=True)[0]
        return sorted({int(r) for r in seen[0, 0].nonzero()[:, 0]})

    assert rows_seen(3) == [7, 8, 9]
    assert rows_seen(13) == [5, 8, 11]


def test_the_scale_is_learned_from_the_output_alone() -> None:
    wanted = ScaleAdaptiveConv(2, 1, 1)
    nn.init.constant_(wanted.scale.bias, 2.5)
    layer = ScaleAdaptiveConv(2, 1, 1)
    layer.weight.data.copy_(wanted.weight.data)
    x = F.avg_pool2d(torch.randn(4, 1, 20, 20), 5, 1)  # smooth, so that between voxels there is a slope
    target = wanted(x).detach()
    optimiser = torch.optim.Adam([layer.scale.bias], lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimiser.step()
    assert layer.scale.bias.item() == pytest.approx(2.5, abs=0.1)


def test_only_the_last_stage_adapts_and_starts_as_the_plain_network() -> None:
    torch.manual_seed(0)
    plain = build("sac", dims=2, in_channels=1, classes=2, size="tiny", stages=()).eval()
    torch.manual_seed(0)
    adaptive = build("sac", dims=2, in_channels=1, classes=2, size="tiny").eval()
    found = [n for n, m in adaptive.named_modules() if isinstance(m, ScaleAdaptiveConv)]
    assert len(found) == 2
    assert all(name.startswith("encoder.stages.3") for name in found)
    adaptive.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(adaptive(x), plain(x))


def test_a_stage_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"stages are \[6\]; a ResNet has stages 2, 3, 4 and 5"):
        build("sac", dims=2, in_channels=1, classes=2, size="tiny", stages=(6,))
