"""Convolutions split into one axis after the other."""

from __future__ import annotations

from torch import nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv


def factorised_conv(
    dims: int, inputs: int, outputs: int, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """3x1, ReLU, 1x3 (and a third factor in volumes), norm. Romera et al. 2018, doi:10.1109/TITS.2017.2750080.

    (B, inputs, *S) -> (B, outputs, *(S / stride)); two of them around a ReLU are ERFNet's non-bottleneck-1D path.
    """
    steps = nn.Sequential()
    for axis in range(dims):
        kernel, strides, rates = ([1] * dims for _ in range(3))
        kernel[axis], strides[axis], rates[axis] = 3, stride, dilation
        channels = inputs if axis == 0 else outputs
        if axis:
            steps.append(nn.ReLU(inplace=True))
        steps.append(
            plain_conv(dims, channels, outputs, kernel, stride=tuple(strides), dilation=tuple(rates))
        )
    norm = nd.make_norm("batch", dims, outputs)
    norm.eps = 1e-3  # type: ignore[assignment]  # as in ERFNet
    return steps.append(norm)
