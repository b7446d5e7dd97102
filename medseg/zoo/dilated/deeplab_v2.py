"""DeepLab v2. Chen, Papandreou, Kokkinos, Murphy, Yuille, TPAMI 2018, arXiv:1606.00915.

A dilated ResNet-101 and atrous spatial pyramid pooling: four 3x3 classifiers of dilation 6, 12, 18 and 24 look at
objects and context at four scales and their scores are summed. The network reads the image at three scales and the
largest score of each position counts; each scale is trained on too.
Differs from the paper: the dense CRF is not part of the network. Volumes use 3D layers; 96^3 gives a map of 12 voxels
a side, on which a rate of 12 and more reads padding beside its own place: smaller `rates` suit small patches.
Oracle: none installed; counted by its layers, 44.05 M with 21 classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.outputs import Outputs

ALL_UNITS = ((4, (2,)), (5, (4,)))
"""Dilation of all units of stages 4 and 5, the first ones too, as in the authors' code."""


class DeepLabV2(nn.Module):
    """DeepLab v2 on (B, in_channels, *S) -> logits (B, classes, *S).

    rates: dilations of the summed classifiers. scales: of the image; in training mode each scale's logits come as
    auxiliary outputs of weight 1.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        rates: Sequence[int] = (6, 12, 18, 24),
        scales: Sequence[float] = (1.0, 0.75, 0.5),
    ) -> None:
        super().__init__()
        self.divisor = (8,) * dims
        self.scales = tuple(scales)
        self.encoder = make_resnet(backbone, dims, in_channels, 8, cycles=ALL_UNITS)
        deepest = self.encoder.channels[-1]
        self.classifiers = nn.ModuleList(plain_conv(dims, deepest, classes, 3, dilation=r) for r in rates)
        for classifier in self.classifiers:
            nn.init.normal_(classifier.weight, 0.0, 0.01)

    def scores(self, x: Tensor) -> Tensor:
        """The summed classifiers at an eighth of the image."""
        features = self.encoder(x)[-1]
        return torch.stack([classify(features) for classify in self.classifiers]).sum(dim=0)

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        each = [
            nd.resize(self.scores(nd.resize(x, [max(8, round(n * scale)) for n in size])), size)
            for scale in self.scales
        ]
        fused = torch.stack(each).amax(dim=0)
        if not self.training or len(each) == 1:
            return fused
        return Outputs(fused, tuple(each), (1.0,) * len(each))
