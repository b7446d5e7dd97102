"""What PortraitFCN+ claims of position and expected shape, shown on a small case."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medseg.zoo.build import build
from medseg.zoo.layers.positions import coordinates


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_each_axis_gets_a_channel_of_positions_from_one_border_to_the_other(dims: int) -> None:
    places = coordinates((4,) * dims)
    assert places.shape == (dims, *(4,) * dims)
    for axis in range(dims):
        line = places[axis].movedim(axis, 0)[(slice(None), *(0,) * (dims - 1))]
        assert line.tolist() == [-0.75, -0.25, 0.25, 0.75]


def test_an_image_without_content_is_still_told_apart_by_place() -> None:
    net = build("adobe-portrait-net", dims=2, in_channels=1, classes=2, size="tiny").eval()
    flat = torch.zeros(1, 1, 128, 128)
    with torch.no_grad():
        told = net(flat)[0, :, 48:80, 48:80].std(dim=(1, 2))
        net.beside = lambda x: torch.cat([x, torch.zeros(1, 3, 128, 128)], dim=1)  # type: ignore[method-assign]
        untold = net(flat)[0, :, 48:80, 48:80].std(dim=(1, 2))
    assert told.min() > 2 * untold.max()


def test_the_shape_channel_is_the_mean_of_the_training_masks() -> None:
    net = build("adobe-portrait-net", dims=2, in_channels=1, classes=2, size="tiny", grid=32)
    first, second = torch.zeros(2, 32, 32, dtype=torch.uint8), torch.zeros(1, 32, 32, dtype=torch.uint8)
    first[:, 8:24, 8:24] = 1
    second[:, :, :16] = 255
    losses = []

    def objective(outputs: Tensor, targets: Tensor) -> Tensor:
        losses.append(outputs.sum())
        return losses[-1]

    net.training_step(torch.randn(2, 1, 32, 32), first, objective)
    net.training_step(torch.randn(1, 1, 32, 32), second, objective)
    channel = net.beside(torch.randn(1, 1, 32, 32))[0, -1]
    torch.testing.assert_close(channel[8:24, 8:24], torch.full((16, 16), 2 / 3))
    assert channel[0, 0] == 0


def test_the_mean_mask_is_kept_with_the_weights() -> None:
    net = build("adobe-portrait-net", dims=3, in_channels=1, classes=2, size="tiny", grid=8)
    net.remember(torch.ones(1, 16, 16, 16, dtype=torch.uint8))
    assert net.state_dict()["mean_mask"].unique().tolist() == [1.0]
