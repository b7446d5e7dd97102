"""SAC, scale-adaptive convolutions. Zhang, Tang, Zhang, Li, Yan, ICCV 2017, doi:10.1109/ICCV.2017.224.

A receptive field of one size makes large objects fall apart and small ones vanish. A regression layer reads from the
features how far apart the taps of the next convolution should lie at each position: wide inside large objects, close
on small ones. The factor is learned from the segmentation alone, without labels of size.
Differs from the paper: none known. Not confirmed, as no code is public: that exactly the 3x3 convolutions of the last
stage are adaptive (the paper finds high layers best), the largest factor 4, and the head of one 3x3 convolution.
In volumes the taps move along three axes and are interpolated trilinearly.
Oracle: torch's dilated convolutions, which it equals where the factor is a whole number.
"""

from __future__ import annotations

from collections.abc import Sequence

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers.heads import BackboneNet, FCNHead, OnLast
from medseg.zoo.layers.scale_adaptive import adapt_scales


class SAC(BackboneNet):
    """SAC on (B, in_channels, *S) -> logits (B, classes, *S). stages: those of 2..5 whose 3x3 are scale-adaptive."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        channels: int = 512,
        stages: Sequence[int] = (5,),
    ) -> None:
        if not set(stages) <= {2, 3, 4, 5}:
            raise ValueError(f"stages are {list(stages)}; a ResNet has stages 2, 3, 4 and 5")
        encoder = make_resnet(backbone, dims, in_channels, 8)
        for number in stages:
            adapt_scales(encoder.stages[number - 2])
        head = OnLast(FCNHead(dims, encoder.channels[-1], classes, channels))
        super().__init__(dims, encoder, head, divisor=8)
