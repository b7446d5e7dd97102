"""Convolutional encoder network (CEN-s). Brosch, Tang, Yoo, Li, Traboulsee, Tam, IEEE TMI 2016,
doi:10.1109/TMI.2016.2528821.

Few layers with large kernels: convolutions without padding take the volume in, their transposes give back exactly
what they took, and the features of the first layer have a shortcut to the last, so that small and large lesions are
both seen. As lesions are a hundredth of the volume, the loss is a sum of the squared errors on lesion and on other
voxels, each as a mean of its own, the first with a small share r.
Differs from the paper: one output a class with softmax in place of one sigmoid, the loss averaged over the classes
but background; layers start from random weights, where the paper trains them one by one as restricted Boltzmann
machines on unlabelled images first. Planes use 2D layers.
Not confirmed (from memory of the paper): seven layers with 32 filters and average pooling, kernels of 9 and 5.
Oracle: none kept; the loss by its equation, and the transposed layers as exact adjoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.label_masks import label_masks

SHARE = 0.05
"""The paper's r: what the error on lesion voxels counts."""


class ConvEncoderNet(nn.Module):
    """CEN-s on (B, in_channels, *S) -> logits (B, classes, *S).

    filters: channels of all layers. kernels: of the first and the second convolution (odd). share: r of the loss;
    0.05 suits lesions of a hundredth of the volume, with larger classes it lets everything become background.
    shortcut: whether the first layer's features reach the last (without: the plain 7-layer network).
    """

    undrawn_as_ignored = True

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        filters: int = 32,
        kernels: tuple[int, int] = (9, 5),
        share: float = SHARE,
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        outer, inner = kernels
        if outer % 2 == 0 or inner % 2 == 0 or not 0 < share < 1:
            raise ValueError(
                f"kernels are {kernels} and share {share}; kernels are odd, share between 0 and 1"
            )
        self.dims, self.share = dims, share
        self.divisor = (2,) * dims
        self.minimum = (outer + 2 * inner + 1,) * dims
        conv, transposed = nd.CONV[dims], nd.CONV_TRANSPOSE[dims]
        self.first = conv(in_channels, filters, outer)
        self.pool = nd.AVG_POOL[dims](2)
        self.second = conv(filters, filters, inner)
        self.second_back = transposed(filters, filters, inner)
        self.first_back = transposed(filters, classes, outer)
        self.shortcut = transposed(filters, classes, outer, bias=False) if shortcut else None
        kaiming(self)
        # Squared errors of a saturated softmax teach nothing: scores start small.
        for last in (self.first_back, self.shortcut) if shortcut else (self.first_back,):
            nn.init.normal_(last.weight, std=0.1 * (filters * outer**dims) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        low = torch.relu(self.first(x))
        high = torch.relu(self.second_back(torch.relu(self.second(self.pool(low)))))
        logits = self.first_back(nd.resize(high, low.shape[2:], "nearest"))
        return logits if self.shortcut is None else logits + self.shortcut(low)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """r * error where the class is + (1 - r) * error elsewhere, over all voxels that count.

        targets: (B, *S) class positions, of which 0 is background, or (B, K, *S) masks of overlapping classes; 255
        is left out.
        """
        masks, counts = label_masks(targets, outputs.shape[1], self.dims)
        exclusive = targets.ndim == self.dims + 1
        probability = outputs.float().softmax(dim=1) if exclusive else outputs.float().sigmoid()
        return sensitivity_specificity(probability, masks, counts, self.share, 1 if exclusive else 0)


def sensitivity_specificity(
    probability: Tensor, masks: Tensor, counts: Tensor, share: float, start: int
) -> Tensor:
    """r sum (S - y)^2 S / sum S + (1 - r) sum (S - y)^2 (1 - S) / sum (1 - S), mean over the classes from `start`.

    probability, masks S: (B, K, *S). counts: (B, 1, *S) bool, voxels that count. Sums run over the whole batch.
    """
    axes = (0, *range(2, masks.ndim))
    wrong = (masks - probability).square()
    inside, outside = masks * counts, (1 - masks) * counts
    missed = (wrong * inside).sum(dim=axes) / inside.sum(dim=axes).clamp_min(1)
    invented = (wrong * outside).sum(dim=axes) / outside.sum(dim=axes).clamp_min(1)
    return (share * missed + (1 - share) * invented)[start:].mean()
