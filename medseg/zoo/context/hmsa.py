"""Hierarchical multi-scale attention. Tao, Sapra, Catanzaro, 2020, arXiv:2005.10821.

One network segments the image at several scales, and at each it also tells, voxel by voxel, how far it is to be
trusted against the next finer one: small things are best seen enlarged, large ones shrunk. The attention relates two
adjacent scales only, so a network trained on the scales 1/2 and 1 can be chained over more of them afterwards. The
loss adds to a binary cross-entropy the mutual information of neighbourhoods (arXiv:1910.12037).
Differs from the paper: pseudo-labels of coarse annotations are a matter of the data and are not made here. Volumes
use 3D layers and 3x3x3 neighbourhoods in the loss; the scale 2 costs eight times the scale 1 there, `scales` sets it.
Oracle: none kept; HRNet-OCR with the published 70.4 M and an attention head of 1.77 M; chain by its equation.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.context.ocr import OCR
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.own_statistics import group_norms
from medseg.zoo.layers.region_mutual import region_mutual_loss
from medseg.zoo.outputs import Outputs

TRAINED = (0.5, 1.0)


def blend(finer: Tensor, own: Tensor, attention: Tensor, scale: float) -> Tensor:
    """attention * own + (1 - attention) * finer, on the finer grid below scale 1 and on its own from there."""
    if scale >= 1:
        return attention * own + (1 - attention) * nd.resize(finer, own.shape[2:])
    size = finer.shape[2:]
    return nd.resize(attention * own, size) + (1 - nd.resize(attention, size)) * finer


class HMSA(nn.Module):
    """HRNet-OCR over scales on (B, in_channels, *S) -> logits (B, classes, *S).

    width, modules: of HRNet. channels: of pixel features, of OCR's attention, of the head that weighs scales.
    scales: of the image in prediction, 1 among them; training uses 0.5 and 1. norm: batch, or group, by each image's
    own statistics.
    """

    undrawn_as_ignored = True

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        width: int = 48,
        modules: Sequence[int] = (1, 4, 3),
        channels: Sequence[int] = (512, 256, 256),
        scales: Sequence[float] = (0.5, 1.0, 2.0),
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if 1 not in scales or min(scales) <= 0:
            raise ValueError(f"scales are {list(scales)}; they are above 0 and 1 is among them")
        if norm not in ("batch", "group"):
            raise ValueError(f"norm is {norm!r}; it is batch or group")
        self.divisor = (32,) * dims
        self.scales = tuple(sorted(scales, reverse=True))
        pixels, inner, weighing = channels
        self.ocr = OCR(dims, in_channels, classes, width, modules, pixels, inner)
        self.attention = nn.Sequential(
            ConvNormAct(dims, pixels, weighing, 3),
            ConvNormAct(dims, weighing, weighing, 3),
            plain_conv(dims, weighing, 1, 1, bias=False),
            nn.Sigmoid(),
        )
        if norm == "group":
            group_norms(self)

    def at_scale(self, x: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, first segmentation and attention (B, 1, ...) of the image resized by `scale`, in its size."""
        size = [max(round(n * scale), 1) for n in x.shape[2:]]
        logits, first, mixed = self.ocr.scores(nd.resize(x, size))
        logits, first, attention = (nd.resize(t, size) for t in (logits, first, self.attention(mixed)))
        return logits, first, attention

    def forward(self, x: Tensor) -> Tensor | Outputs:
        if self.training:
            return self.two_scales(x)
        joint, _, _ = self.at_scale(x, self.scales[0])
        for scale in self.scales[1:]:
            logits, _, attention = self.at_scale(x, scale)
            joint = blend(joint, logits, attention, scale)
        return joint

    def two_scales(self, x: Tensor) -> Outputs:
        """What is trained: the blend of both scales; the first segmentations blended alike; each scale by itself."""
        low, high = (self.at_scale(x, scale) for scale in TRAINED)
        joint, first = (blend(high[i], low[i], low[2], TRAINED[0]) for i in (0, 1))
        alone = nd.resize(low[0], x.shape[2:])
        return Outputs(joint, (first, alone, high[0]), (0.4, 0.05, 0.05))

    def loss(self, outputs: Outputs, targets: Tensor) -> Tensor:
        """Mutual information on the blend, binary cross-entropy on the rest."""
        total = region_mutual_loss(outputs.main, targets)
        for weight, logits in zip(outputs.auxiliary_weights, outputs.auxiliary, strict=True):
            total = total + weight * region_mutual_loss(logits, targets, share=1.0)
        return total
