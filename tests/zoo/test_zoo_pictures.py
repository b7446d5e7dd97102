"""Pictures of the networks' shapes, and what they are drawn from."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from medseg.zoo.build import find
from medseg.zoo.catalog import CATALOG
from medseg.zoo.picture import draw, picture_of, short
from medseg.zoo.shape import Shape, Stage, Trace, folded, shape_of

PICTURES = Path(__file__).parents[2] / "docs" / "systems" / "pictures"
NETWORKS = [card for card in CATALOG if card.kind == "network"]


@pytest.mark.parametrize("card", NETWORKS, ids=lambda c: c.name)
def test_every_network_has_a_small_picture_that_is_well_formed(card) -> None:
    file = PICTURES / f"{card.name}.svg"
    assert file.is_file(), "run: python -m medseg.zoo.picture docs/systems/pictures"
    assert file.stat().st_size < 8192
    assert ElementTree.parse(file).getroot().tag.endswith("svg")


def test_no_picture_is_left_of_a_network_that_is_gone() -> None:
    assert {file.stem for file in PICTURES.glob("*")} == {card.name for card in NETWORKS}


@pytest.mark.parametrize("name", ["linknet", "enet", "segformer"])
def test_the_picture_in_the_docs_is_the_one_that_the_code_draws(name: str) -> None:
    assert (PICTURES / f"{name}.svg").read_text() == picture_of(find(name))


def test_the_shape_of_u_net_is_a_u_with_skips() -> None:
    stages = shape_of(find("u-net"), 2).stages
    encoder = [s for s in stages if ".encoder." in s.part]
    decoder = [s for s in stages if ".decoder." in s.part]
    assert [(s.stride, s.channels) for s in encoder] == [(1, 64), (2, 128), (4, 256), (8, 512), (16, 1024)]
    assert [(s.stride, s.channels) for s in decoder] == [(8, 512), (4, 256), (2, 128), (1, 64)]
    for skip, stage in zip(reversed(encoder[:-1]), decoder, strict=True):
        assert stages.index(skip) in stage.sources


class Residual(nn.Module):
    """A layer, a residual layer of the same stride, a strided one; and a second reader of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.down, self.pooled = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x + self.second(x)
        return self.pooled(self.down(x).mean((2, 3), keepdim=True))


def test_a_residual_sum_comes_from_its_last_layer_and_a_pooled_vector_is_no_map() -> None:
    net = Residual()
    trace = Trace((16, 16))
    with trace.listening(net), torch.no_grad():
        net(torch.zeros(1, 1, 16, 16))
    stages = folded(trace.stages, net)
    assert [(s.part, s.stride, s.channels, sorted(s.sources)) for s in stages] == [
        ("first", 1, 4, []),
        ("second", 1, 4, [0]),
        ("down", 2, 8, [1]),
        ("pooled", None, 2, [2]),
    ]
    assert not net.first._forward_hooks, "the hooks are gone"


def test_what_cannot_be_traced_without_values_is_traced_in_its_tiny_size() -> None:
    assert shape_of(find("crf-rnn"), 2).size == "tiny"
    assert shape_of(find("fcn-8s"), 2).size == "paper"


def test_a_picture_names_channels_parts_and_strides() -> None:
    stages = (Stage("encoder.0", 1, 8, 2), Stage("encoder.1", 2, 16, 1, {0}), Stage("head", None, 3, 1, {1}))
    svg = draw(Shape(stages, "paper", (1, 3, 64, 48)), "Small & round")
    assert "Small &amp; round, size paper; image 64 x 48" in svg
    for text in (">8<", ">16<", ">encoder.0 x2<", ">1/2<", ">no map<"):
        assert text in svg
    assert svg.count("<path") == 2


def test_long_names_keep_their_number() -> None:
    assert short("body.a_very_long_name.12") == "a very .12"
