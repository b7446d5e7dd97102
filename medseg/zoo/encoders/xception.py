"""Aligned Xception. Chollet, CVPR 2017, arXiv:1610.02357, as deepened in arXiv:1802.02611, figure 4.

Every convolution but the first two is depth-wise and then point-wise; max poolings are separable convolutions with
stride; norm and ReLU follow each depth-wise convolution.
Differs from the paper: n-D. Oracle: the published 39.92 M weights of Xception-65 with its 1000-class layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.layers.conv import ConvNormAct, Style
from medseg.zoo.layers.initial import kaiming

BARE = Style("batch", "none")


class Separable(nn.Sequential):
    """Depth-wise and point-wise convolution, each with a norm; ReLU between and after them where `inner`."""

    def __init__(
        self, dims: int, inputs: int, outputs: int, stride: int = 1, dilation: int = 1, inner: bool = False
    ) -> None:
        style = Style("batch", "relu") if inner else BARE
        options = {"stride": stride, "dilation": dilation, "groups": inputs}
        super().__init__(
            ConvNormAct(dims, inputs, inputs, 3, style, **options),
            ConvNormAct(dims, inputs, outputs, 1, style),
        )


class Block(nn.Module):
    """Three separable convolutions beside a shortcut: projected (entry and exit flow), identity, or none."""

    def __init__(
        self,
        dims: int,
        inputs: int,
        widths: Sequence[int],
        stride: int,
        dilation: int,
        shortcut: str = "conv",
    ) -> None:
        super().__init__()
        channels = (inputs, *widths)
        final = shortcut == "none"
        self.convs = nn.ModuleList()
        for i in range(3):
            step = stride if i == 2 else 1
            conv = Separable(dims, channels[i], channels[i + 1], step, dilation, inner=final)
            self.convs.append(conv if final else nn.Sequential(nn.ReLU(), conv))
        self.shortcut: nn.Module | None = None
        if shortcut == "conv":
            self.shortcut = ConvNormAct(dims, inputs, widths[-1], 1, BARE, stride=stride)
        self.identity = shortcut == "identity"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output, and its features before the last convolution."""
        out = x
        before = x
        for i, conv in enumerate(self.convs):
            before = out if i == 2 else before
            out = conv(out)
        if self.shortcut is not None:
            out = out + self.shortcut(x)
        return (out + x if self.identity else out), before


class Xception(nn.Module):
    """forward: (B, C, *S) -> [features at stride 4, the last features at the output stride].

    widths: of stem, three entry blocks, exit. middle: blocks of the middle flow (16: Xception-65, 8: -41).
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        middle: int = 16,
        widths: Sequence[int] = (32, 64, 128, 256, 728, 1024, 1536, 2048),
        output_stride: int = 16,
    ) -> None:
        super().__init__()
        first, second, low, mid, main, wide, wider, last = widths
        self.stem = nn.Sequential(
            ConvNormAct(dims, in_channels, first, 3, stride=2), ConvNormAct(dims, first, second, 3)
        )
        step3, step4 = (2, 2) if output_stride == 32 else (2, 1) if output_stride == 16 else (1, 1)
        rate = 1 if step3 == 2 else 2
        self.entry = nn.ModuleList(
            [
                Block(dims, second, (low,) * 3, 2, 1),
                Block(dims, low, (mid,) * 3, 2, 1),
                Block(dims, mid, (main,) * 3, step3, 1),
            ]
        )
        self.middle = nn.ModuleList(
            Block(dims, main, (main,) * 3, 1, rate, "identity") for _ in range(middle)
        )
        self.exit = Block(dims, main, (main, wide, wide), step4, rate)
        self.last = Block(dims, wide, (wider, wider, last), 1, rate if step4 == 2 else 2 * rate, "none")
        self.channels = (mid, last)
        self.strides = (4, output_stride)
        kaiming(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        x, _ = self.entry[0](x)
        x, low = self.entry[1](x)
        x, _ = self.entry[2](x)
        for block in self.middle:
            x, _ = block(x)
        x, _ = self.exit(x)
        x, _ = self.last(x)
        return [low, x]
