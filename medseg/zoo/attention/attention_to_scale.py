"""Attention to scale. Chen, Yang, Wang, Xu, Yuille, CVPR 2016, arXiv:1511.03339.

One network reads the image at several scales. A small attention network sees what it found at all of them (fc7) and
says, position by position, how much each scale counts; the score maps are summed with these weights of sum 1, where
averages and maxima would treat all positions alike. Each scale is trained on its own too.
Differs from the paper: the backbone's first three poolings are 2x2 where the authors' have 3x3 windows, and the 3x3
mean pooling before fc6 in their DeepLab is left out; no CRF. Not confirmed: that fc7 of all scales enters the
attention concatenated (34.7 M weights with 21 classes, 20.5 M of them DeepLab-LargeFOV's); the authors' layer list
was not at hand. Two public re-implementations (MXNetSeg's; NVIDIA's, which hierarchical multi-scale attention is
compared with) do so too, with the same 3x3 of 512 and 1x1. Volumes use 3D layers.
Oracle: none kept; the weighted sum by its equation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.vgg import VGG, VGG16, WIDTHS
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.large_fov import large_fov
from medseg.zoo.outputs import Outputs


class AttentionToScale(nn.Module):
    """DeepLab-LargeFOV at several scales on (B, in_channels, *S) -> logits (B, classes, *S).

    widths: channels of VGG-16's stages. hidden: of fc6 and fc7. attention: of the attention network's 3x3 layer.
    scales: of the image, the finest first. In training mode each scale's scores are auxiliary outputs of weight 1 on
    their own grid.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = WIDTHS,
        hidden: int = 1024,
        attention: int = 512,
        scales: Sequence[float] = (1.0, 0.75, 0.5),
    ) -> None:
        super().__init__()
        if len(scales) < 2:
            raise ValueError(f"scales is {list(scales)}; attention needs at least two")
        self.divisor, self.scales = (8,) * dims, tuple(scales)
        self.encoder = VGG(dims, in_channels, widths, VGG16, output_stride=8)
        self.field = large_fov(dims, widths[-1], hidden)
        self.classify = plain_conv(dims, hidden, classes, 1)
        self.attention = nn.Sequential(
            plain_conv(dims, hidden * len(scales), attention, 3),
            nn.ReLU(inplace=True),
            plain_conv(dims, attention, len(scales), 1),
        )
        kaiming(self)
        for scores in (self.classify, self.attention[-1]):
            nn.init.normal_(scores.weight, 0.0, 0.01)

    def weights(self, features: Sequence[Tensor]) -> Tensor:
        """fc7 of each scale -> (B, scales, *s) on the grid of the first, of sum 1 at each position."""
        size = features[0].shape[2:]
        return torch.softmax(self.attention(torch.cat([nd.resize(f, size) for f in features], dim=1)), dim=1)

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        features = []
        for scale in self.scales:
            scaled = nd.resize(x, [max(8, round(n * scale)) for n in size])
            features.append(self.field(self.encoder(scaled)[-1]))
        scores = [self.classify(f) for f in features]
        weights = self.weights(features)
        raised = torch.stack([nd.resize(s, weights.shape[2:]) for s in scores], dim=1)
        merged = nd.resize((weights[:, :, None] * raised).sum(dim=1), size)
        return Outputs(merged, tuple(scores), (1.0,) * len(scores)) if self.training else merged
