"""DeepLab v3 with nine-point bicubic upsampling. Song et al., Application Research of Computers, 2019, url:https://www.arocmag.cn.

DeepLab v3 brings its scores from a sixteenth of the image to full size by bilinear interpolation, which is straight
between its four points and blunts contours. Here the scores go up by cubic convolution over nine points: the nearest
sample and its neighbours, weighed by a cubic kernel that bends with the scores. The layer is fixed and has no weights.
Differs from the paper: a reconstruction; only a survey's sentence that names the nine-point bicubic convolution was at
hand. Not confirmed: the kernel (here Keys' with a = -1/2, its weights over the three nearest samples of an axis brought
to a sum of 1), and whether anything else of DeepLab v3 changes. In volumes it has 27 points; smaller `rates` suit
small patches, as in DeepLab v3.
Oracle: none kept; the layer against the sum over its nine points, the rest is DeepLab v3.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.cubic import nine_point_cubic
from medseg.zoo.layers.pooling import ASPP


class DeepLabV3Bicubic9(nn.Module):
    """DeepLab v3 on (B, in_channels, *S) -> logits (B, classes, *S), interpolated from nine points.

    output_stride: 16 (as trained) or 8, which doubles the rates. rates: dilations at stride 16.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        output_stride: int = 16,
        rates: Sequence[int] = (6, 12, 18),
        channels: int = 256,
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride is {output_stride}; it is 8 or 16")
        self.divisor = (output_stride,) * dims
        self.encoder = make_resnet(backbone, dims, in_channels, output_stride, multi_grid=(1, 2, 4))
        chosen = [rate * 16 // output_stride for rate in rates]
        self.head = nn.Sequential(
            ASPP(dims, self.encoder.channels[-1], channels, chosen), plain_conv(dims, channels, classes, 1)
        )

    def coarse(self, x: Tensor) -> Tensor:
        """Scores on the grid of the output stride."""
        return self.head(self.encoder(x)[-1])

    def forward(self, x: Tensor) -> Tensor:
        return nine_point_cubic(self.coarse(x), x.shape[2:])
