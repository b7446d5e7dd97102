"""EfficientNet. Tan, Le, ICML 2019, arXiv:1905.11946.

Inverted residuals with squeeze-and-excitation, found by search for B0; B1 to B7 multiply width, depth and image size by
one compound coefficient.
Differs from the paper: n-D; stages may keep their resolution by dilation; the head before the classifier is left out;
no stochastic depth, which belongs to training from scratch on photographs.
Oracle: MONAI 1.6 EfficientNetBN with equal weights, 2D and 3D; the published counts.
"""

from __future__ import annotations

import math

from medseg.zoo.layers.inverted import Block, InvertedPyramid, Kind, divisible

STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
          (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip
"""Blocks, kernel, stride, expansion, channels: table 1 of the paper."""

SCALES = {
    "efficientnet-b0": (1.0, 1.0), "efficientnet-b1": (1.0, 1.1), "efficientnet-b2": (1.1, 1.2),
    "efficientnet-b3": (1.2, 1.4), "efficientnet-b4": (1.4, 1.8), "efficientnet-b5": (1.6, 2.2),
    "efficientnet-b6": (1.8, 2.6), "efficientnet-b7": (2.0, 3.1),
    "efficientnet-small": (0.5, 0.5), "efficientnet-tiny": (0.1, 0.1),
}  # fmt: skip
"""Factors on width and depth, as in the authors' code; `small` and `tiny` are ours, for a few cores and for tests."""

KIND = Kind("swish")


def make_efficientnet(name: str, dims: int, in_channels: int, output_stride: int = 32) -> InvertedPyramid:
    """An EfficientNet by its name, as a pyramid of four features."""
    width, depth = SCALES[name]
    blocks: list[Block] = []
    inputs = stem = divisible(32 * width)
    for count, kernel, stride, expansion, channels in STAGES:
        outputs = divisible(channels * width)
        for i in range(math.ceil(count * depth)):
            gate = max(1, inputs // 4)
            blocks.append(
                Block(inputs, inputs * expansion, outputs, kernel, stride if i == 0 else 1, gate=gate)
            )
            inputs = outputs
    return InvertedPyramid(dims, in_channels, stem, blocks, KIND, output_stride)
