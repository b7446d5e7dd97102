"""What SegNet, DeconvNet, LinkNet, HRNet and ENet claim, shown on a small case."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg.zoo.build import build
from medseg.zoo.dilated.enet import Bottleneck, Down
from medseg.zoo.encoders.hrnet import Exchange
from medseg.zoo.layers.unpool import pool_with_places, unpool


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("dims", [2, 3])
def test_unpooling_puts_maxima_back_where_they_stood(dims: int) -> None:
    x = torch.randn(2, 3, *(6,) * dims)
    pooled, places = pool_with_places(x)
    back = unpool(pooled, places, tuple(x.shape[2:]))
    kept = back != 0
    assert torch.equal(back[kept], x[kept])
    assert int(kept.sum()) == pooled.numel()
    again, _ = pool_with_places(back + (back == 0) * -1e9)
    assert torch.equal(again, pooled)
    theirs = nn.functional.max_unpool2d if dims == 2 else nn.functional.max_unpool3d
    assert torch.equal(back, theirs(pooled, places, 2))


@pytest.mark.parametrize("name", ["segnet", "deconvnet"])
def test_the_decoder_follows_the_places_of_this_image(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = build(name, dims=2, in_channels=1, classes=2, size="tiny").eval()
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        right = net(image)
        module = f"medseg.zoo.encoder_decoder.{name}.unpool"
        monkeypatch.setattr(module, lambda x, places, size: unpool(x, places.flip(-1), size))
        assert not torch.allclose(net(image), right), "with other places the image is another"


def test_bayesian_segnet_is_uncertain_only_while_it_samples() -> None:
    net = build("bayesian-segnet", dims=2, in_channels=1, classes=2, size="tiny").eval()
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(image), net(image))
    mean, variance = net.sample(image, passes=6)
    torch.testing.assert_close(mean.sum(dim=1), torch.ones(1, 32, 32))
    assert variance.mean() > 0
    assert not net.dropout.training
    plain = build("segnet", dims=2, in_channels=1, classes=2, size="tiny").eval()
    assert plain.sample(image, passes=3)[1].max() < 1e-6


def test_linknet_adds_its_skips() -> None:
    net = build("linknet", dims=2, in_channels=1, classes=2, size="tiny").eval()
    image = torch.randn(1, 1, 64, 64)
    features = net.encoder(image)
    with torch.no_grad():
        x = net.decoder[0](features[3]) + features[2]
        x = net.decoder[1](x) + features[1]
        x = net.decoder[2](x) + features[0]
        torch.testing.assert_close(net(image), net.head(net.decoder[3](x)))


def test_hrnet_keeps_a_quarter_and_all_streams_hear_each_other() -> None:
    net = build("hrnet", dims=2, in_channels=1, classes=2, size="tiny").eval()
    streams = net.encoder(torch.randn(1, 1, 64, 64))
    assert [s.shape[2] for s in streams] == [16, 8, 4, 2]
    exchange = Exchange(2, (2, 4, 8)).eval()
    inputs = [torch.rand(1, 2, 8, 8), torch.rand(1, 4, 4, 4), torch.rand(1, 8, 2, 2)]
    before = exchange(inputs)
    for changed in range(3):
        other = [x + 5.0 * (i == changed) for i, x in enumerate(inputs)]
        assert all(not torch.equal(a, b) for a, b in zip(before, exchange(other), strict=True))


def test_enet_shrinks_with_places_and_widens_with_empty_channels() -> None:
    down = Down(2, 4, 8, 0.0).eval()
    x = torch.rand(1, 4, 8, 8)
    for parameter in down.branch.parameters():
        nn.init.zeros_(parameter)
    out, places = down(x)
    torch.testing.assert_close(out[:, :4], nn.functional.max_pool2d(x, 2))
    assert not out[:, 4:].any()
    assert places.shape == (1, 4, 4, 4)


@pytest.mark.parametrize("dims", [2, 3])
def test_enets_asymmetric_bottleneck_sees_five_positions_along_each_axis(dims: int) -> None:
    block = Bottleneck(dims, 8, "asymmetric", 0.0).eval()
    x = torch.randn(1, 8, *(11,) * dims, requires_grad=True)
    block(x)[(0, slice(None), *(5,) * dims)].sum().backward()
    seen = (x.grad[0].abs().sum(dim=0) > 0).nonzero()
    assert (seen.amax(dim=0) - seen.amin(dim=0) + 1).tolist() == [5] * dims
