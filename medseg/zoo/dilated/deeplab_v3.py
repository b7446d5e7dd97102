"""DeepLab v3. Chen, Papandreou, Schroff, Adam, 2017, arXiv:1706.05587.

Atrous spatial pyramid pooling with batch norm, a 1x1 branch, and image-level features beside the dilated 3x3
branches: a large dilation on a small map only sees padding, and the mean of the image brings the global context back.
The last stage of the ResNet has a multi-grid of dilations 1, 2, 4. No CRF is needed.
Differs from the paper: none; the cascaded variant is not built (the authors' later code drops a tenth of the
pyramid's output in training). Volumes use 3D layers; 96^3 gives a map of 6 voxels a side at stride 16 and of 12 at
stride 8, on which a rate of that size and more reads padding beside its own place: smaller `rates` suit small
patches.
Oracle: none installed (torchvision has one more 3x3 convolution in its head, 58.63 M).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.heads import BackboneNet, OnLast
from medseg.zoo.layers.pooling import ASPP


class DeepLabV3(BackboneNet):
    """DeepLab v3 on (B, in_channels, *S) -> logits (B, classes, *S).

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
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride is {output_stride}; it is 8 or 16")
        encoder = make_resnet(backbone, dims, in_channels, output_stride, multi_grid=(1, 2, 4))
        chosen = [rate * 16 // output_stride for rate in rates]
        head = nn.Sequential(
            ASPP(dims, encoder.channels[-1], channels, chosen), plain_conv(dims, channels, classes, 1)
        )
        super().__init__(dims, encoder, OnLast(head), divisor=output_stride)
