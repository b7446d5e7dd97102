"""RAN, reverse attention network. Huang, Xia, Wu, Li, Wang, Song, Kuo, BMVC 2017, arXiv:1707.06426.

Where classes resemble each other, all their scores are low and the largest wins by little. A second branch therefore
learns, for each class, what does not belong to it; where the first branch responds weakly, a mask lets this reverse
score through and subtracts it. All three scores are trained, the reverse one through a sign change.
Differs from the paper: one scale of the image, no CRF. Volumes use 3D layers; a smaller `rate` suits small patches,
as in DeepLab v2. Not confirmed: both branches are one 3x3 classifier of dilation 12 on the last stage of DeepLab v2's
ResNet-101 ("LargeFOV"), and the three losses count the same; the authors' layer list was not at hand.
Oracle: none kept; mask and sum by their equations.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.outputs import Outputs

ALL_UNITS = ((4, (2,)), (5, (4,)))
"""Dilation of all units of stages 4 and 5, the first ones too, as in DeepLab v2."""
MASKS = ("normalised", "simple")


def reverse_mask(scores: Tensor, mask: str) -> Tensor:
    """How much of the reverse score passes: near 1 where `scores` are weak, near 0 where they are strong.

    simple: sigmoid(-scores). normalised: sigmoid(1 / (relu(scores) + 1/8) - 4), which spans -4..4 before the sigmoid
    whatever the range of the scores.
    """
    if mask == "simple":
        return torch.sigmoid(-scores)
    return torch.sigmoid(1.0 / (torch.relu(scores) + 0.125) - 4.0)


class RAN(nn.Module):
    """RAN on (B, in_channels, *S) -> logits (B, classes, *S): original - mask * reverse.

    rate: dilation of the two classifiers. mask: normalised (RAN-n) or simple (RAN-s). In training mode the original
    scores and the negated reverse ones are auxiliary outputs of weight 1.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        rate: int = 12,
        mask: str = "normalised",
    ) -> None:
        super().__init__()
        if mask not in MASKS:
            raise ValueError(f"mask is {mask!r}; it is {' or '.join(MASKS)}")
        self.divisor, self.mask = (8,) * dims, mask
        self.encoder = make_resnet(backbone, dims, in_channels, 8, cycles=ALL_UNITS)
        deepest = self.encoder.channels[-1]
        self.original = plain_conv(dims, deepest, classes, 3, dilation=rate)
        self.reverse = plain_conv(dims, deepest, classes, 3, dilation=rate)
        for classifier in (self.original, self.reverse):
            nn.init.normal_(classifier.weight, 0.0, 0.01)

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        features = self.encoder(x)[-1]
        original, reverse = self.original(features), self.reverse(features)
        combined = original - reverse_mask(original, self.mask) * reverse
        if not self.training:
            return nd.resize(combined, size)
        combined, original, negated = (nd.resize(s, size) for s in (combined, original, -reverse))
        return Outputs(combined, (original, negated), (1.0, 1.0))
