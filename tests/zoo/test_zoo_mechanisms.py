"""The block of each paper is in use: with any one of them idle, or with what it reads taken away, the logits change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import nn

from medseg.zoo.build import build

Finder = Callable[[nn.Module], Sequence[nn.Module]]
Idle = Callable[[nn.Module], Callable[..., object]]


class Part(NamedTuple):
    """A block of a system, how many there are in its tiny size, and what stands in for each."""

    system: str
    what: str
    count: int
    find: Finder
    idle: Idle
    in_channels: int = 1


def of(name: str) -> Finder:
    """All modules of a class that have weights."""
    return lambda net: [m for m in net.modules() if type(m).__name__ == name and list(m.parameters())]


def passes(_: nn.Module) -> Callable[..., object]:
    """The first input, as it is."""
    return lambda x, *_others: x


def sums(_: nn.Module) -> Callable[..., object]:
    """Both inputs added up."""
    return lambda x, y: x + y


def silent(block: nn.Module) -> Callable[..., object]:
    """Zeros in the shape of what the block gives."""
    honest = block.forward
    return lambda *inputs: torch.zeros_like(honest(*inputs))


def open_gate(block: nn.Module) -> Callable[..., object]:
    """Weights of 1 in the shape of what the block gives."""
    honest = block.forward
    return lambda *inputs: torch.ones_like(honest(*inputs))


PARTS = (
    Part("attention-u-net", "gates", 2, of("AttentionGate"), lambda _: lambda x, _g: (x, x[:, :1])),
    Part("se-u-net", "squeeze and excitation", 5, of("SqueezeExcite"), passes),
    Part("cbam-u-net", "gates", 5, of("CBAM"), passes),
    Part("da-net", "positions", 1, of("PositionAttention"), passes),
    Part("da-net", "channels", 1, of("ChannelAttention"), passes),
    Part("oc-net", "object context", 1, of("ObjectContext"), passes),
    Part("cc-net", "criss-cross", 1, of("CrissCrossAttention"), passes),
    Part("ema-net", "expectation-maximisation", 1, of("EMAttention"), passes),
    Part("psa-net", "points", 1, of("PointWiseAttention"), lambda _: lambda x: torch.cat([x, x], dim=1)),
    Part("dfn", "channel attention", 4, of("ChannelAttention"), sums),
    Part("dfn", "global mean", 1, lambda net: [net.whole], silent),
    Part("pan", "pyramid attention", 1, of("FeaturePyramidAttention"), lambda m: lambda x: m.middle(x)),
    Part("pan", "attention upsample", 3, lambda net: [up.weigh for up in net.head.up], open_gate),
    Part("ha-net", "height attention", 4, of("HeightAttention"), open_gate),
    Part("deeplab-v3-smoke", "refinement", 1, lambda net: [net.head.refinement.mix], silent),
    Part("deeplab-v3-smoke", "deformable branches", 3, of("DeformableConv"), silent),
    Part("enc-net", "context encoding", 1, of("ContextEncoding"), lambda m: lambda x: (x, m.present)),
    Part("refine-net", "chained pooling", 4, of("ChainedPooling"), lambda _: torch.relu),
    Part("refine-net", "coarser block", 3, lambda net: [b.from_below for b in net.head.blocks[1:]], silent),
    Part("ocr", "object attention", 1, of("ObjectAttention"), silent),
    Part("gcn-large-kernel", "large kernels", 4, of("GlobalConv"), silent),
    Part("ex-fuse", "semantic embedding", 3, of("SemanticEmbedding"), passes),
    Part("spg-net", "guidance", 1, of("Guidance"), lambda m: lambda x: (x, m.predict(x))),
    Part("sgr", "graph", 1, of("SymbolicGraph"), passes),
    Part("esa-net", "weighed sums", 5, of("WeighedSum"), sums, in_channels=2),
    Part("segformer", "attention", 4, of("EfficientAttention"), silent),
    Part("segformer", "levels of the head", 4, lambda net: net.head.unify, silent),
    Part("dpt", "reassembled levels", 4, of("Reassemble"), silent),
    Part("bise-net", "attention refinement", 2, of("AttentionRefinement"), lambda m: m.conv.forward),
    Part("bise-net", "fusion weights", 1, lambda net: [net.fusion.weigh], silent),
    Part("bise-net", "spatial path", 1, lambda net: [net.spatial], silent),
    Part("bise-net", "global mean", 1, lambda net: [net.whole], silent),
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)


def awake(block: nn.Module) -> None:
    """Weights that start at 0, so that training begins without the block, get values."""
    for parameter in block.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.system}, {part.what}")
def test_the_logits_change_with_any_one_block_idle(part: Part, dims: int) -> None:
    net = build(part.system, dims=dims, in_channels=part.in_channels, classes=2, size="tiny").eval()
    blocks = list(part.find(net))
    assert len(blocks) == part.count
    for block in blocks:
        awake(block)
    x = torch.randn(1, part.in_channels, *(64 if dims == 2 else 32,) * dims)
    with torch.no_grad():
        before = net(x)
        for block in blocks:
            block.forward = part.idle(block)  # type: ignore[method-assign]
            idle = net(x)
            del block.forward
            assert not torch.allclose(before, idle, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(net(x), before)


DILATIONS = {
    "deeplab-v2": ((2, 2), (4, 4, 4)),
    "deeplab-v3": ((1, 1), (2, 4, 8)),
    "duc-hdc": ((1, 2), (5, 9, 17)),
    "ran": ((2, 2), (4, 4, 4)),
    "cc-net": ((2, 2), (4, 4, 4)),
    "oc-net": ((2, 2), (4, 4, 4)),
    "psa-net": ((2, 2), (4, 4, 4)),
    "ha-net": ((1, 1), (2, 2, 2)),
    "da-net": ((1, 2), (4, 8, 16)),
    "enc-net": ((1, 2), (2, 4, 4)),
    "ema-net": ((1, 2), (2, 8, 16)),
}
"""Of the first two units of stage 4 and of all three of stage 5; authors differ in the first unit of a stage."""


@pytest.mark.parametrize("name", DILATIONS)
def test_the_units_of_the_backbone_have_the_dilations_of_the_authors(name: str) -> None:
    with torch.device("meta"):
        stages = build(name, dims=2, in_channels=3, classes=21).encoder.stages
    found = [tuple(unit.path[1][0].dilation[0] for unit in stage) for stage in stages]
    assert (found[2][:2], found[3]) == DILATIONS[name]
