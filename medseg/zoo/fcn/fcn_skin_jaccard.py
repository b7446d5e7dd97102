"""FCN with Jaccard distance. Yuan, Chao, Lo, IEEE Trans. Medical Imaging 36(9), 2017, doi:10.1109/TMI.2017.2695227.

A network of 19 layers, convolutions and poolings down, upsamplings and convolutions up, is trained from scratch on few
dermoscopic images. Lesions are small beside the skin: instead of weighing pixels, the loss is the Jaccard distance of
the soft mask itself, 1 - sum(tp) / (sum(t^2) + sum(p^2) - sum(tp)), which background that is right leaves untouched.
Differs from the paper: Not confirmed: the layer table; the 19 layers (poolings and upsamplings counted) have the widths
of the same authors' later network of 29. With exclusive classes p is the softmax, and the distances of all classes but
background are averaged. Sums run over the batch, so that a patch without a lesion counts too. The paper's training is
Adam at 0.003; its second threshold, which grows the lesion from a sure core, is not part of the network.
Volumes use 3D layers.
Oracle: none kept; the loss against its equation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv
from medseg.zoo.layers.initial import kaiming

IGNORED = 255
"""Label of voxels that count nowhere."""
EPSILON = 1e-6


def jaccard_distance(probabilities: Tensor, truth: Tensor) -> Tensor:
    """(B, K, *S) of 0..1 each -> (K,) distances; sums run over batch and space. An empty pair has distance 0."""
    p, t = (x.transpose(0, 1).flatten(1).float() for x in (probabilities, truth))
    both = (p * t).sum(dim=1)
    either = (t * t).sum(dim=1) + (p * p).sum(dim=1) - both
    return 1 - (both + EPSILON) / (either + EPSILON)


class JaccardFCN(nn.Module):
    """The FCN on (B, in_channels, *S) -> logits (B, classes, *S), with its own loss.

    first: widths of the two convolutions before the first pooling. features: channels of the stages after it; all but
    the last, which is the bottom, have two convolutions and end in a pooling.
    """

    undrawn_as_ignored = True

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        first: Sequence[int] = (16, 32),
        features: Sequence[int] = (64, 128, 256),
    ) -> None:
        super().__init__()
        self.divisor = (2 ** len(features),) * dims
        style = Style("batch", "relu", bias=True)
        stages = [tuple(first), *((f, f) for f in features[:-1])]
        self.down = nn.Sequential()
        inputs = in_channels
        for stage in stages:
            for width in stage:
                self.down.append(ConvNormAct(dims, inputs, width, 3, style))
                inputs = width
            self.down.append(nd.MAX_POOL[dims](2))
        self.down.append(ConvNormAct(dims, inputs, features[-1], 3, style))
        inputs = features[-1]
        self.up = nn.Sequential()
        for stage in reversed(stages):
            self.up.append(nn.Upsample(scale_factor=2, mode="nearest"))
            for width in reversed(stage[1:] if stage is stages[0] else stage):
                self.up.append(ConvNormAct(dims, inputs, width, 3, style))
                inputs = width
        self.classify = plain_conv(dims, inputs, classes, 3)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.up(self.down(x)))

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Mean Jaccard distance of the classes but background (the paper's equation 4).

        outputs: logits (B, K, *S). target: class numbers (B, *S), or (B, K, *S) of 0 and 1 where classes overlap; 255
        counts nowhere.
        """
        logits = outputs.float()
        if target.ndim == logits.ndim:
            known = target != IGNORED
            return jaccard_distance(logits.sigmoid() * known, target * known).mean()
        known = (target != IGNORED)[:, None]
        truth = F.one_hot(target.long() * known[:, 0], logits.shape[1]).movedim(-1, 1)
        distances = jaccard_distance(torch.softmax(logits, dim=1) * known, truth * known)
        return distances[1:].mean() if len(distances) > 1 else distances.mean()
