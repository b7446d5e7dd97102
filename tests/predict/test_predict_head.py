"""The last layer may wait until windows are blended: the same labels, with less memory for many classes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from medseg.predict.engines.eager import Eager
from medseg.predict.head import logits_of, put_off, without_last_layer
from medseg.predict.mirrors import Mirrors
from medseg.predict.windows import Cut, Skip, predict_logits, stream_logits
from medseg.zoo.build import build
from medseg.zoo.outputs import Outputs

PATCH = (16, 16, 16)


def a_net(features: int = 6, classes: int = 25, last: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv3d(1, features, 3, padding=1), nn.InstanceNorm3d(features, affine=True), nn.LeakyReLU(),
              last or nn.Conv3d(features, classes, 1)]  # fmt: skip
    return nn.Sequential(*layers).eval()


def streamed(
    run: Eager, image: torch.Tensor, classes: int, cut: Cut, skip: Skip | None = None
) -> torch.Tensor:
    out = torch.full((classes, *image.shape[1:]), float("nan"))
    for slab in stream_logits(run, image, cut, classes, skip=skip or Skip()):
        out.narrow(slab.lead + 1, slab.start, slab.stop - slab.start).copy_(slab.logits)
    return out


@pytest.mark.parametrize("shape", [(40, 22, 17), (17, 40, 22), (9, 22, 40)])
@pytest.mark.parametrize("half_sums", [False, True])
def test_blended_features_give_the_logits_of_blended_logits(shape: tuple[int, ...], half_sums: bool) -> None:
    net, image = a_net(), torch.randn(1, *shape)
    body = without_last_layer(net, 1, PATCH)
    wanted = predict_logits(net, image, PATCH, 25)
    found = streamed(Eager(body), image, 25, Cut(PATCH, half_sums=half_sums))
    tolerance = 2e-3 if half_sums else 1e-5
    assert (found - wanted).abs().max() < tolerance * wanted.abs().max()


def test_of_a_real_network_in_float32_all_labels_stay() -> None:
    torch.manual_seed(0)
    net = build("nnunet-plain", dims=3, in_channels=1, classes=25, features_per_stage=[8, 16], strides=[1, 2],
                kernel_sizes=[3] * 2, blocks_per_stage=[2] * 2, decoder_convs=[2], deep_supervision=False).eval()  # fmt: skip
    image = torch.randn(1, 30, 24, 24)
    body = without_last_layer(net, 1, PATCH)
    assert put_off(body).features == 8
    wanted, found = predict_logits(net, image, PATCH, 25), streamed(Eager(body), image, 25, Cut(PATCH))
    assert (wanted.argmax(0) == found.argmax(0)).float().mean() >= 0.9999


def test_the_network_itself_stays_whole_and_shares_its_weights() -> None:
    net = a_net()
    before = net(torch.ones(1, 1, *PATCH))
    body = without_last_layer(net, 1, PATCH)
    assert body is not net
    assert body[0].weight is net[0].weight
    assert torch.equal(net(torch.ones(1, 1, *PATCH)), before)
    assert isinstance(net[3], nn.Conv3d)


@pytest.mark.parametrize("device_type", [None, torch.bfloat16])
def test_mirrored_copies_are_averaged_as_features(device_type: torch.dtype | None) -> None:
    net, image = a_net(), torch.randn(1, 20, 18, 16)
    wanted = predict_logits(net, image, PATCH, 25, mirrors=Mirrors((0, 2)))
    run = Eager(without_last_layer(net, 1, PATCH), mirrors=Mirrors((0, 2)), autocast=device_type)
    found = streamed(run, image, 25, Cut(PATCH))
    assert (found - wanted).abs().max() < (1e-5 if device_type is None else 0.05) * wanted.abs().max()


@pytest.mark.parametrize("background", [True, False])
def test_windows_that_are_left_out_are_background(background: bool) -> None:
    net, image = a_net(), torch.randn(1, 40, 16, 16)
    skip = Skip(frozenset({(0, 0, 0)}), background)
    cut = Cut(PATCH)
    wanted = streamed(Eager(net), image, 25, cut, skip)
    found = streamed(Eager(without_last_layer(net, 1, PATCH)), image, 25, cut, skip)
    assert (found - wanted)[:, 16:].abs().max() < 1e-5
    # Where no window was computed the features are 0, and their logits the bias of the last layer.
    assert torch.equal(found[:, :16].argmax(0), wanted[:, :16].argmax(0)) or not background
    assert (found[:, :8].argmax(0) == 0).all() if background else (found[:, :8] < -500).all()


class Softened(nn.Module):
    """Something comes after the last layer."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.net, self.change = a_net(), change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.change(self.net(x))


class Looks(nn.Module):
    """A forward that reads its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv3d(1, 9, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x) * self.head.weight.mean()


@pytest.mark.parametrize(
    "net",
    [
        a_net(features=30, classes=25),
        a_net(last=nn.Conv3d(6, 25, 3, padding=1)),
        Softened(torch.tanh),
        Softened(lambda y: y + y.mean()),
        Looks(),
        nn.ConvTranspose3d(1, 4, 1),
    ],
    ids=["more features than classes", "looks at neighbours", "not linear", "not local", "reads it", "none"],
)
def test_a_network_whose_last_layer_cannot_wait_stays_whole(net: nn.Module) -> None:
    assert without_last_layer(net.eval(), 1, PATCH) is net
    assert put_off(net) is None


class Trained(nn.Module):
    """Answers with Outputs, and makes logits of features that were enlarged: linear and so free to wait."""

    divisor = 2

    def __init__(self) -> None:
        super().__init__()
        self.body, self.last = nn.Conv3d(1, 5, 2, stride=2), nn.Conv3d(5, 30, 1)

    def forward(self, x: torch.Tensor) -> Outputs:
        return Outputs(nn.functional.interpolate(self.last(self.body(x)), x.shape[2:], mode="trilinear"))


def test_a_network_that_enlarges_its_logits_enlarges_its_features() -> None:
    torch.manual_seed(0)
    net, image = Trained().eval(), torch.randn(1, 20, 16, 16)
    body = without_last_layer(net, 1, PATCH)
    assert put_off(body).features == 5
    wanted = predict_logits(net, image, PATCH, 30)
    assert (streamed(Eager(body), image, 30, Cut(PATCH)) - wanted).abs().max() < 1e-5


def test_an_answer_on_one_window_can_be_completed() -> None:
    net = a_net()
    window = torch.randn(2, 1, *PATCH)
    body = without_last_layer(net, 1, PATCH)
    assert torch.allclose(logits_of(Eager(body), window), net(window), atol=1e-5)
    assert torch.allclose(logits_of(Eager(net), window), net(window), atol=1e-5)
