"""Fully convolutional networks. Long, Shelhamer, Darrell, CVPR 2015, arXiv:1411.4038 (FCN-32s, FCN-16s, FCN-8s).

A classifier's fully connected layers become convolutions, so that it gives a coarse map of class scores for an image
of any size; the map is brought to full size inside the network. FCN-16s and FCN-8s add scores of the finer pool4 and
pool3 before going up, which brings detail back.
Differs from the paper: the convolutions that stand for fully connected layers are padded, in place of 100 zeros
around the image and crops. In volumes they have a 3x3x3 kernel and 1024 channels (7x7x7 and 4096 would be 0.7 G
weights). Upsampling between levels is learned from a linear start, the last one fixed, as the paper says; the
authors' released models fix all of them. Each is trained at once from the start, where the paper starts FCN-16s from
FCN-32s and FCN-8s from FCN-16s (the authors' later at-once form shrinks pool4 and pool3 by 0.01 and 0.0001 instead).
Score layers start from random weights, the paper's from 0.
Oracle: no library keeps it (torchvision's is another network); counted by its layers: 134.3 M with 21 classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.encoders.vgg import VGG, VGG16, WIDTHS
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.upsample import FixedLinearUp, learned_linear_up


class FCN(nn.Module):
    """FCN on (B, in_channels, *S) -> logits (B, classes, *S).

    stride: 32, 16 or 8, the grid on which scores are summed. widths: channels of VGG's stages. fc_channels, fc_kernel:
    the two layers that stand for fully connected ones (None: 4096 and 7 in planes, 1024 and 3 in volumes).
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        stride: int = 8,
        widths: Sequence[int] = WIDTHS,
        fc_channels: int | None = None,
        fc_kernel: int | None = None,
    ) -> None:
        super().__init__()
        if stride not in (8, 16, 32):
            raise ValueError(f"stride is {stride}; it is 32, 16 or 8")
        self.divisor = (32,) * dims
        hidden = fc_channels or (4096 if dims == 2 else 1024)
        kernel = fc_kernel or (7 if dims == 2 else 3)
        self.encoder = VGG(dims, in_channels, widths, VGG16)
        self.fc = nn.Sequential(
            plain_conv(dims, widths[-1], hidden, kernel),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            plain_conv(dims, hidden, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
        )
        self.levels = [level for level in (3, 2) if 2 ** (level + 1) >= stride]
        self.score = nd.CONV[dims](hidden, classes, 1)
        self.skip_scores = nn.ModuleList(nd.CONV[dims](widths[level], classes, 1) for level in self.levels)
        kaiming(self)
        self.up = nn.ModuleList(learned_linear_up(dims, classes, 2) for _ in self.levels)
        self.last = FixedLinearUp(dims, stride)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        scores = self.score(self.fc(features[-1]))
        for level, skip, up in zip(self.levels, self.skip_scores, self.up, strict=True):
            scores = up(scores) + skip(features[level])
        return self.last(scores)
