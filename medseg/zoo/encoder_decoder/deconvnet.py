"""DeconvNet. Noh, Hong, Han, ICCV 2015, arXiv:1505.04366.

VGG-16 with its two fully connected layers, all with batch norm and none with dropout, and a mirrored network of
unpooling (values go back where the maxima stood) and transposed convolutions: the pooling's places bring the shape of
this object back, learned filters that of its class, coarse to fine.
Differs from the paper: whole images in place of object proposals, whose scores it averages and sharpens by a dense
random field at test, and one training stage in place of two. The layers that stand for fully connected ones are
padded, so that images other than 224 wide fit; in volumes they have 3x3x3 kernels and 1024 channels.
Oracle: none kept; counted by its layers, 251.8 M, and the layer list of the authors' model.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.encoders.vgg import VGG, VGG16, WIDTHS
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.unpool import pool_with_places, unpool

STYLE = Style("batch", "relu", bias=True)


class Deconv(nn.Sequential):
    """A transposed convolution of stride 1 with norm and ReLU."""

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__(
            nd.CONV_TRANSPOSE[dims](inputs, outputs, kernel, padding=kernel // 2),
            nd.make_norm("batch", dims, outputs),
            nn.ReLU(inplace=True),
        )


class DeconvNet(nn.Module):
    """DeconvNet on (B, in_channels, *S) -> logits (B, classes, *S).

    hidden, fc_kernel: of the layers that stand for fully connected ones (None: 4096 and 7; in volumes 1024 and 3).
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = WIDTHS,
        hidden: int | None = None,
        fc_kernel: int | None = None,
    ) -> None:
        super().__init__()
        self.divisor = (2 ** len(widths),) * dims
        hidden = hidden or (4096 if dims == 2 else 1024)
        kernel = fc_kernel or (7 if dims == 2 else 3)
        self.encoder = VGG(dims, in_channels, widths, VGG16, norm="batch").stages
        self.core = nn.Sequential(
            ConvNormAct(dims, widths[-1], hidden, kernel, STYLE),
            ConvNormAct(dims, hidden, hidden, 1, STYLE),
            Deconv(dims, hidden, widths[-1], kernel),
        )
        self.decoder = nn.ModuleList()
        for level in reversed(range(len(widths))):
            here, below = widths[level], widths[max(level - 1, 0)]
            outputs = [here] * (VGG16[level] - 1) + [below]
            stage = nn.Sequential(*(Deconv(dims, here, o) for o in outputs))
            self.decoder.append(stage)
        self.head = plain_conv(dims, widths[0], classes, 1)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        places = []
        for stage in self.encoder:
            x = stage(x)
            size = tuple(x.shape[2:])
            x, where = pool_with_places(x)
            places.append((where, size))
        x = self.core(x)
        for stage in self.decoder:
            x = stage(unpool(x, *places.pop()))
        return self.head(x)
