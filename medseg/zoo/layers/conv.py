"""Convolution, norm, activation: the brick of nearly every network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from medseg.zoo.layers import nd

Size = int | Sequence[int]


@dataclass(frozen=True)
class Style:
    """What stands around the convolutions of a network: norm and activation by name, and whether they have a bias.

    bias None: only where no norm follows.
    """

    norm: str = "batch"
    activation: str = "relu"
    bias: bool | None = None


def same_padding(kernel: Size, dilation: Size, dims: int) -> tuple[int, ...]:
    """Zeros on each side that keep the size at stride 1."""
    kernels = (kernel,) * dims if isinstance(kernel, int) else tuple(kernel)
    rates = (dilation,) * dims if isinstance(dilation, int) else tuple(dilation)
    return tuple(r * (k - 1) // 2 for k, r in zip(kernels, rates, strict=True))


def plain_conv(dims: int, inputs: int, outputs: int, kernel: Size = 3, **options: object) -> nn.Module:
    """An n-D convolution that keeps the size at stride 1; options are those of nn.Conv."""
    options.setdefault("padding", same_padding(kernel, options.get("dilation", 1), dims))  # type: ignore[arg-type]
    kernel = kernel if isinstance(kernel, int) else tuple(kernel)
    return nd.CONV[dims](inputs, outputs, kernel, **options)  # type: ignore[arg-type]


class ConvNormAct(nn.Sequential):
    """conv -> norm -> activation on (B, inputs, *S); options (stride, dilation, groups, padding) go to the conv."""

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        kernel: Size = 3,
        style: Style = Style(),
        **options: object,
    ) -> None:
        bias = style.norm == "none" if style.bias is None else style.bias
        super().__init__(plain_conv(dims, inputs, outputs, kernel, bias=bias, **options))
        if style.norm != "none":
            self.append(nd.make_norm(style.norm, dims, outputs))
        if style.activation != "none":
            self.append(nd.make_activation(style.activation, outputs))


class DoubleConv(nn.Sequential):
    """Two 3x3(x3) convolutions with norm and activation; `middle` channels between them (default: outputs)."""

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        style: Style = Style(),
        middle: int | None = None,
        padding: int = 1,
    ) -> None:
        middle = outputs if middle is None else middle
        super().__init__(
            ConvNormAct(dims, inputs, middle, 3, style, padding=padding),
            ConvNormAct(dims, middle, outputs, 3, style, padding=padding),
        )
