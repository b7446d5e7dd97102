"""MobileNetV2 (Sandler et al., CVPR 2018, arXiv:1801.04381) and V3 (Howard et al., ICCV 2019, arXiv:1905.02244).

Inverted residuals with linear bottlenecks; V3 adds gates, hard swish, and shapes found by search.
Differs from the papers: n-D; stages may keep their resolution by dilation; the layers before the classifier are left
out. V3 as the authors released it: the gate's width is a quarter of the wide channels.
Oracle: transformers' MobileNetV2Model with equal weights (where installed); the published counts.
"""

from __future__ import annotations

from medseg.zoo.layers.inverted import Block, InvertedPyramid, Kind, divisible

V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks, stride: table 2 of the paper."""

V3_LARGE = ((3, 16, 16, 0, "relu", 1), (3, 64, 24, 0, "relu", 2), (3, 72, 24, 0, "relu", 1),
            (5, 72, 40, 1, "relu", 2), (5, 120, 40, 1, "relu", 1), (5, 120, 40, 1, "relu", 1),
            (3, 240, 80, 0, "hard-swish", 2), (3, 200, 80, 0, "hard-swish", 1), (3, 184, 80, 0, "hard-swish", 1),
            (3, 184, 80, 0, "hard-swish", 1), (3, 480, 112, 1, "hard-swish", 1), (3, 672, 112, 1, "hard-swish", 1),
            (5, 672, 160, 1, "hard-swish", 2), (5, 960, 160, 1, "hard-swish", 1),
            (5, 960, 160, 1, "hard-swish", 1))  # fmt: skip
V3_SMALL = ((3, 16, 16, 1, "relu", 2), (3, 72, 24, 0, "relu", 2), (3, 88, 24, 0, "relu", 1),
            (5, 96, 40, 1, "hard-swish", 2), (5, 240, 40, 1, "hard-swish", 1), (5, 240, 40, 1, "hard-swish", 1),
            (5, 120, 48, 1, "hard-swish", 1), (5, 144, 48, 1, "hard-swish", 1), (5, 288, 96, 1, "hard-swish", 2),
            (5, 576, 96, 1, "hard-swish", 1), (5, 576, 96, 1, "hard-swish", 1))  # fmt: skip
"""Kernel, wide channels, channels, gate, activation, stride: tables 1 and 2 of the second paper."""

MOBILENETS = {
    "mobilenet-v2": 1.0,
    "mobilenet-v2-small": 0.5,
    "mobilenet-v2-tiny": 0.1,
    "mobilenet-v3-large": 1.0,
    "mobilenet-v3-small": 1.0,
}
"""Factor on the channels."""

KIND_V2 = Kind("relu6")
KIND_V3 = Kind("hard-swish", gate="hard", gate_activation="relu")


def make_mobilenet(name: str, dims: int, in_channels: int, output_stride: int = 32) -> InvertedPyramid:
    """A MobileNet by its name, as a pyramid of four features."""
    if name.startswith("mobilenet-v2"):
        stem, blocks = _blocks_v2(MOBILENETS[name])
        return InvertedPyramid(dims, in_channels, stem, blocks, KIND_V2, output_stride)
    table = V3_LARGE if name.endswith("large") else V3_SMALL
    return InvertedPyramid(dims, in_channels, 16, _blocks_v3(table), KIND_V3, output_stride)


def _blocks_v2(width: float) -> tuple[int, list[Block]]:
    inputs = stem = divisible(32 * width)
    blocks = []
    for expansion, channels, count, stride in V2:
        outputs = divisible(channels * width)
        for i in range(count):
            blocks.append(Block(inputs, inputs * expansion, outputs, 3, stride if i == 0 else 1))
            inputs = outputs
    return stem, blocks


def _blocks_v3(table: tuple[tuple[int, int, int, int, str, int], ...]) -> list[Block]:
    inputs, blocks = 16, []
    for kernel, wide, outputs, gated, activation, stride in table:
        gate = divisible(wide / 4) if gated else 0
        blocks.append(Block(inputs, wide, outputs, kernel, stride, gate=gate, activation=activation))
        inputs = outputs
    return blocks
