"""SegNet. Badrinarayanan, Kendall, Cipolla, TPAMI 2017, arXiv:1511.00561; Bayesian SegNet: Kendall, Badrinarayanan,
Cipolla, BMVC 2017, arXiv:1511.02680.

The encoder is VGG-16's 13 convolutions with batch norm; each max pooling remembers where its maxima stood, and the
decoder mirrors the encoder, putting values back to those places before its convolutions fill in the zeros. So
boundaries are kept with a few indices instead of whole features. The Bayesian form has dropout on the deep stages
that stays on at test time: the spread of many passes is the model's uncertainty.
Differs from the paper: the colour image is standardised by the pipeline where the paper normalises its local contrast
(the authors' released VGG-16 models do not either). Weights of classes are the recipe's: the paper's, median frequency
over frequency, are given by name. In eval mode the Bayesian form drops nothing (weight averaging); `sample` gives mean
and variance of several passes. Volumes use 3D layers.
Oracle: none kept; counted by its layers, 29.45 M, and the layer list of the authors' models.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.vgg import VGG, VGG16, WIDTHS
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.layers.unpool import pool_with_places, unpool


class SegNet(nn.Module):
    """SegNet on (B, in_channels, *S) -> logits (B, classes, *S).

    widths: channels of the five stages. dropout: rate after encoder stages 3 to 5 and decoder stages 5 to 3.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = WIDTHS,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.divisor = (2 ** len(widths),) * dims
        style = Style("batch", "relu", bias=True)
        self.encoder = VGG(dims, in_channels, widths, VGG16, norm="batch").stages
        self.decoder = nn.ModuleList()
        for level in reversed(range(len(widths))):
            inputs, below = widths[level], widths[max(level - 1, 0)]
            stage = nn.Sequential()
            for i in range(VGG16[level]):
                last = i == VGG16[level] - 1
                if last and level == 0:
                    stage.append(plain_conv(dims, inputs, classes, 3))
                else:
                    stage.append(ConvNormAct(dims, inputs, below if last else inputs, 3, style))
            self.decoder.append(stage)
        deep = range(len(widths) - 3, len(widths))
        self.dropped = frozenset(deep) if dropout else frozenset()
        self.dropout = nn.Dropout(dropout)
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        places = []
        for level, stage in enumerate(self.encoder):
            x = stage(x)
            size = tuple(x.shape[2:])
            x, where = pool_with_places(x)
            places.append((where, size))
            if level in self.dropped:
                x = self.dropout(x)
        for level, stage in zip(reversed(range(len(places))), self.decoder, strict=True):
            x = stage(unpool(x, *places[level]))
            if level in self.dropped:
                x = self.dropout(x)
        return x

    @torch.no_grad()
    def sample(self, x: Tensor, passes: int = 40) -> tuple[Tensor, Tensor]:
        """Mean and variance (B, K, *S) of the class probabilities over passes with dropout on; norms stay in eval."""
        training = self.dropout.training
        self.dropout.train()
        try:
            total = squares = torch.zeros(())
            for _ in range(passes):
                probability = torch.softmax(self(x).float(), dim=1)
                total, squares = total + probability, squares + probability.square()
        finally:
            self.dropout.train(training)
        mean = total / passes
        return mean, (squares / passes - mean.square()).clamp_min(0)
