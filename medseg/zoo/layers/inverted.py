"""Inverted residual: widen by 1x1, filter each channel alone, squeeze by 1x1. arXiv:1801.04381, figure 3b.

With a squeeze-and-excitation gate on the wide features it is the block of MnasNet, MobileNetV3 and EfficientNet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "swish": lambda: nn.SiLU(inplace=True),
    "hard-swish": lambda: nn.Hardswish(inplace=True),
    "none": nn.Identity,
}


@dataclass(frozen=True)
class Kind:
    """What all blocks of a network share. eps: of the norms. gate: sigmoid or hard; gate_activation: inside the gate."""

    activation: str
    eps: float = 1e-3
    momentum: float = 0.01
    gate: str = "sigmoid"
    gate_activation: str = "swish"


@dataclass(frozen=True)
class Block:
    """Shape of one block: input, wide and output channels, kernel, stride, dilation, channels inside the gate (0: none)."""

    inputs: int
    wide: int
    outputs: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    gate: int = 0
    activation: str | None = None


class SameConv(nn.Sequential):
    """Convolution, norm, activation; at stride 2 the odd voxel of padding lies above, as in the authors' TensorFlow.

    So features of published weights fall on the places where they were learnt. (B, inputs, *S) -> (B, outputs, *S/stride)
    for even sizes.
    """

    def __init__(
        self, dims: int, inputs: int, outputs: int, kernel: int, kind: Kind, activation: str, **options: int
    ) -> None:
        stride, dilation = options.get("stride", 1), options.get("dilation", 1)
        total = max(dilation * (kernel - 1) + 1 - stride, 0)
        self.margins = (total // 2, total - total // 2) * dims
        norm = nd.BATCH_NORM[dims](outputs, eps=kind.eps, momentum=kind.momentum)
        super().__init__(
            plain_conv(dims, inputs, outputs, kernel, padding=0, bias=False, **options),
            norm,
            ACTIVATIONS[activation](),
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.margins) if any(self.margins) else x)


class Gate(nn.Module):
    """Squeeze-and-excitation with 1x1 convolutions: x * gate(W2 act(W1 mean(x)))."""

    def __init__(self, dims: int, channels: int, inner: int, kind: Kind) -> None:
        super().__init__()
        self.squeeze = nd.CONV[dims](channels, inner, 1)
        self.activation = ACTIVATIONS[kind.gate_activation]()
        self.excite = nd.CONV[dims](inner, channels, 1)
        self.gate = nn.Hardsigmoid() if kind.gate == "hard" else nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.excite(self.activation(self.squeeze(nd.global_average(x)))))


class InvertedResidual(nn.Module):
    """(B, inputs, *S) -> (B, outputs, *S/stride); the input is added where shapes agree."""

    def __init__(self, dims: int, block: Block, kind: Kind) -> None:
        super().__init__()
        activation = block.activation or kind.activation
        widen = []
        if block.wide != block.inputs:
            widen = [SameConv(dims, block.inputs, block.wide, 1, kind, activation)]
        alone = SameConv(
            dims, block.wide, block.wide, block.kernel, kind, activation,
            stride=block.stride, dilation=block.dilation, groups=block.wide,
        )  # fmt: skip
        gate = [Gate(dims, block.wide, block.gate, kind)] if block.gate else []
        self.path = nn.Sequential(
            *widen, alone, *gate, SameConv(dims, block.wide, block.outputs, 1, kind, "none")
        )
        self.residual = block.stride == 1 and block.inputs == block.outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.path(x) if self.residual else self.path(x)


def divisible(value: float, by: int = 8) -> int:
    """The nearest multiple of `by`, but never below 90 % of `value`: how the authors round channels."""
    rounded = max(by, int(value + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * value else rounded


class InvertedPyramid(nn.Module):
    """forward: (B, C, *S) -> four features, finest first: the last of each resolution from stride 4 on.

    `half(x)` gives the features at stride 2. Blocks keep the resolution by dilation from `output_stride` on. The
    convolution that widens before the classifier is left out, as segmentation networks do.
    """

    def __init__(
        self, dims: int, in_channels: int, stem: int, blocks: list[Block], kind: Kind, output_stride: int = 32
    ) -> None:
        super().__init__()
        self.entry = SameConv(dims, in_channels, stem, 3, kind, kind.activation, stride=2)
        self.stages = nn.ModuleList([nn.Sequential()])
        stride, dilation = 2, 1
        strides, channels = [2], [stem]
        for block in blocks:
            step = block.stride
            if step == 2:
                self.stages.append(nn.Sequential())
                channels.append(0)
                if stride >= output_stride:
                    step = 1
                else:
                    stride *= 2
                strides.append(stride)
            shape = Block(**{**vars(block), "stride": step, "dilation": dilation})
            self.stages[-1].append(InvertedResidual(dims, shape, kind))
            if block.stride == 2 and step == 1:
                dilation *= 2
            channels[-1] = block.outputs
        self.half_channels = channels[0]
        self.strides, self.channels = tuple(strides[1:]), tuple(channels[1:])

    def half(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> (B, half_channels, *S/2)."""
        return self.stages[0](self.entry(x))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.half(x)
        features = []
        for stage in list(self.stages)[1:]:
            x = stage(x)
            features.append(x)
        return features
