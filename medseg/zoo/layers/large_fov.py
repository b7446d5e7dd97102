"""Fully connected layers as convolutions with a large field of view. Chen et al. 2015, arXiv:1412.7062."""

from __future__ import annotations

from torch import nn

from medseg.zoo.layers.conv import plain_conv


def large_fov(dims: int, inputs: int, hidden: int) -> nn.Sequential:
    """fc6 as a 3x3 convolution of dilation 12, fc7 as 1x1, each with ReLU and dropout 0.5."""
    return nn.Sequential(
        plain_conv(dims, inputs, hidden, 3, dilation=12),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        plain_conv(dims, hidden, hidden, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
    )
