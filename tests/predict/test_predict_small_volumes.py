"""3D convolutions of small volumes: the same numbers, by oneDNN, and only where nothing has to be learnt."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from medseg.predict.engines.eager import Eager
from medseg.predict.engines.small_volumes import small_volumes

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")

LAYERS = {
    "padded": {"padding": 1},
    "strided": {"padding": 1, "stride": 2},
    "dilated": {"padding": (2, 1, 2), "dilation": (2, 1, 2)},
    "same": {"padding": "same"},
    "reflected": {"padding": 1, "padding_mode": "reflect"},
    "grouped": {"padding": 1, "groups": 2},
    "without bias": {"padding": 0, "bias": False},
}


def ran(net: nn.Module, image: torch.Tensor) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        net(image)
    return {event.key for event in seen.key_averages()}


@pytest.mark.parametrize("name", LAYERS)
def test_the_answer_is_that_of_pytorch(name: str) -> None:
    torch.manual_seed(0)
    layer = nn.Conv3d(4, 6, 3, **LAYERS[name])
    image = torch.randn(1, 4, 9, 8, 10)
    with torch.no_grad():
        expected = layer(image)
        with small_volumes():
            found = layer(image)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_small_convolutions_go_to_onednn_inside_and_come_back_outside() -> None:
    layer, image = nn.Conv3d(4, 4, 3, padding=1), torch.randn(1, 4, 8, 8, 8)
    with torch.no_grad():
        assert "aten::mkldnn_convolution" not in ran(layer, image)
        with small_volumes():
            inside = ran(layer, image)
        assert "aten::mkldnn_convolution" in inside
        assert "aten::slow_conv3d" not in inside
        assert "aten::mkldnn_convolution" not in ran(layer, image)


def test_what_needs_a_gradient_or_another_number_type_is_left_alone() -> None:
    layer, image = nn.Conv3d(4, 4, 3, padding=1), torch.randn(1, 4, 8, 8, 8)
    with small_volumes():
        layer(image).sum().backward()
        with torch.no_grad():
            double = layer.double()(image.double())
    assert layer.weight.grad is not None
    assert double.dtype == torch.float64


def test_a_predicted_window_takes_that_way() -> None:
    net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 1)).eval()
    window = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        expected = net(window)
    assert "aten::slow_conv3d" not in ran(Eager(net), window)
    torch.testing.assert_close(Eager(net)(window), expected, rtol=1e-5, atol=1e-5)
