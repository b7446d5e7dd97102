"""What SegNet, DeconvNet, LinkNet, HRNet and ENet claim, shown on a small case."""

from __future__ import annotations

import sys

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
    module = f"medseg.zoo.encoder_decoder.{name}"
    with torch.no_grad():
        right = net(image)
        monkeypatch.setattr(f"{module}.unpool", lambda x, places, size: unpool(x, places.flip(-1), size))
        assert not torch.allclose(net(image), right), "with other places the image is another"


@pytest.mark.parametrize("name", ["segnet", "deconvnet"])
@pytest.mark.parametrize("dims", [2, 3])
def test_each_step_up_puts_values_back_where_its_pooling_found_them(
    name: str, dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = build(name, dims=dims, in_channels=1, classes=2, size="tiny").eval()
    found: list[torch.Tensor] = []
    module = sys.modules[f"medseg.zoo.encoder_decoder.{name}"]
    up = module.unpool

    def pooled(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, places = pool_with_places(x)
        found.append(places)
        return values, places

    def unpooled(x: torch.Tensor, places: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
        back = up(x, places, size)
        assert torch.equal(places, found.pop()), "the pooling of the same depth"
        torch.testing.assert_close(back.flatten(2).gather(2, places.flatten(2)), x.flatten(2))
        assert int((back != 0).sum()) == int((x != 0).sum()), "and nothing elsewhere"
        return back

    monkeypatch.setattr(module, "pool_with_places", pooled)
    monkeypatch.setattr(module, "unpool", unpooled)
    with torch.no_grad():
        net(torch.randn(1, 1, *(32,) * dims))
    assert not found, "one step up for each pooling"


def test_deconvnet_has_no_dropout_beside_its_batch_norms() -> None:
    net = build("deconvnet", dims=2, in_channels=3, classes=21, size="tiny")
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 13 + 3 + 13, "after every convolution but that of the scores"
    assert not any(isinstance(m, nn.modules.dropout._DropoutNd) for m in net.modules())


def test_bayesian_segnet_is_uncertain_only_while_it_samples() -> None:
    net = build("bayesian-segnet", dims=2, in_channels=1, classes=2, size="tiny").eval()
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(image), net(image))
    mean, variance = net.sample(image, passes=6)
    torch.testing.assert_close(mean.sum(dim=1), torch.ones(1, 32, 32))
    assert variance.max() > 1e-4
    assert not net.dropout.training
    plain = build("segnet", dims=2, in_channels=1, classes=2, size="tiny").eval()
    assert plain.sample(image, passes=3)[1].max() < 1e-6


def test_bayesian_segnet_drops_half_after_the_three_deepest_stages_of_either_side() -> None:
    net = build("bayesian-segnet", dims=2, in_channels=1, classes=2, size="tiny")
    given: list[tuple[int, ...]] = []
    net.dropout.register_forward_hook(lambda _m, seen, _o: given.append(tuple(seen[0].shape[1:])))
    net(torch.randn(2, 1, 64, 64))
    encoder, decoder = [(8, 8, 8), (8, 4, 4), (8, 2, 2)], [(8, 4, 4), (8, 8, 8), (6, 16, 16)]
    assert given == encoder + decoder, "after the poolings 3 to 5, after the decoder stages 5 to 3"
    assert net.dropout.p == 0.5
    with torch.no_grad():
        net.eval()
        net.dropout.train()
        assert not torch.equal(net(image := torch.randn(1, 1, 64, 64)), net(image))


@pytest.mark.parametrize("dims", [2, 3])
def test_linknet_adds_what_enters_each_stage_to_what_its_decoder_block_puts_out(dims: int) -> None:
    net = build("linknet", dims=dims, in_channels=1, classes=2, size="tiny").eval()
    image = torch.randn(1, 1, *(64,) * dims)
    features = net.encoder(image)
    entry = net.encoder.pool(net.encoder.half(image))
    with torch.no_grad():
        x = net.decoder[0](features[3]) + features[2]
        x = net.decoder[1](x) + features[1]
        x = net.decoder[2](x) + features[0]
        x = net.decoder[3](x) + entry
        torch.testing.assert_close(net(image), net.head(x))


def test_linknet_on_a_backbone_without_an_entry_adds_the_other_three() -> None:
    net = build("linknet", dims=2, in_channels=1, classes=2, backbone="mobilenet-v2-tiny").eval()
    image = torch.randn(1, 1, 64, 64)
    assert len(net.bypassed(image)) == 4
    assert net(image).shape == (1, 2, 64, 64)


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


@pytest.mark.parametrize("dims", [2, 3])
def test_every_stream_of_hrnet_counts_for_the_scores(dims: int) -> None:
    net = build("hrnet", dims=dims, in_channels=1, classes=2, size="tiny").eval()
    with torch.no_grad():
        streams = net.encoder(torch.randn(1, 1, *(32,) * dims))
        before = net.head(streams)
        assert before.shape[2:] == streams[0].shape[2:]
        for i in range(4):
            other = [s + torch.randn_like(s) * (i == j) for j, s in enumerate(streams)]
            assert not torch.allclose(net.head(other), before)


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
