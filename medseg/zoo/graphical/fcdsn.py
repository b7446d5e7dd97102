"""Fully connected deep structured networks. Schwing, Urtasun 2015, arXiv:1503.02351.

A convolutional network and a dense conditional random field on its scores are one model: unrolled mean field gives
the marginals, the loss is taken on them, and its gradient passes back through every step, where Gaussian filters are
their own transposes, so that both directions cost the same. Network and label compatibilities of each kernel are
trained jointly.
Differs from the paper: known from its abstract and later papers; not confirmed: five steps of mean field, kernel widths
(those of arXiv:1210.5644 with a bilateral width of 13 grey levels), starting weights (1), and the unary network, here
VGG-16 at an eighth of the image by dilation with the 7x7 and 1x1 layers of 4096 channels (in volumes 3x3x3 and 1024)
and linear upsampling. Each kernel has one full K x K matrix, from Potts.
Oracle: none kept; the gradient by finite differences, the exact filter.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.encoders.vgg import VGG, VGG16, WIDTHS
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.dense_crf import GREY_LEVELS, DenseCRF, Kernels
from medseg.zoo.layers.initial import kaiming


class FCDSN(nn.Module):
    """Joint CNN and dense CRF on (B, in_channels, *S) -> logits (B, classes, *S), whose softmax is the marginals.

    theta: widths alpha, beta, gamma: of the bilateral kernel in voxels and in grey levels of 256, of the spatial one in
    voxels. iterations: of mean field. fc_channels, fc_kernel: the layers that stand for fully connected ones.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = WIDTHS,
        fc_channels: int | None = None,
        fc_kernel: int | None = None,
        theta: Sequence[float] = (80.0, 13.0, 3.0),
        grey_levels: float = GREY_LEVELS,
        iterations: int = 5,
    ) -> None:
        super().__init__()
        self.divisor = (8,) * dims
        hidden = fc_channels or (4096 if dims == 2 else 1024)
        kernel = fc_kernel or (7 if dims == 2 else 3)
        self.encoder = VGG(dims, in_channels, widths, VGG16, output_stride=8)
        self.scores = nn.Sequential(
            plain_conv(dims, widths[-1], hidden, kernel, dilation=self.encoder.next_dilation),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            plain_conv(dims, hidden, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            plain_conv(dims, hidden, classes, 1),
        )
        kaiming(self)
        kernels = Kernels.of(theta, grey_levels)
        self.crf = DenseCRF(classes, kernels, (1.0, 1.0), (iterations, iterations), compatibility=False)

    def forward(self, x: Tensor) -> Tensor:
        unary = nd.resize(self.scores(self.encoder(x)[-1]), x.shape[2:])
        return self.crf(unary, x)
