"""EncNet. Zhang, Dana, Shi, Zhang, Wang, Tyagi, Agrawal, CVPR 2018, arXiv:1803.08904.

What is in the image decides what its pixels can be. The features are encoded by their residuals to a learned
codebook; that description of the whole image weighs the feature channels, so that those of classes which fit the
scene stand out, and it must itself tell which classes are present (SE-loss), where small objects count as large ones.
Differs from the paper: it trains stage 4 by a second encoding with an SE-loss; the authors' code, which this follows,
has a segmentation head there. Structure and weights are those of that code (SE-loss 0.2, the head on stage 4 0.2,
deep stem). `lateral` joins stages 3 and 4, as the authors do on PASCAL. Volumes use 3D layers.
Oracle: none kept; the encoding by its equation, residual by residual.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.encoding import Encoding
from medseg.zoo.layers.heads import FCNHead
from medseg.zoo.layers.presence import presence_loss
from medseg.zoo.outputs import Outputs

SE_WEIGHT = 0.2
AUXILIARY_WEIGHT = 0.2


class ContextEncoding(nn.Module):
    """(B, C, *s) -> relu(x (1 + gamma)), gamma (B, C) in 0..1 from the encoding, and presence logits (B, K)."""

    def __init__(self, dims: int, channels: int, classes: int, codes: int) -> None:
        super().__init__()
        self.enter = ConvNormAct(dims, channels, channels, 1)
        self.encoding = Encoding(channels, codes)
        self.norm = nn.BatchNorm1d(codes)
        self.weigh = nn.Linear(channels, channels)
        self.present = nn.Linear(channels, classes)

    def describe(self, x: Tensor) -> Tensor:
        """The image's description (B, C): the mean of its normalised encodings."""
        return torch.relu(self.norm(self.encoding(self.enter(x)))).mean(dim=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        description = self.describe(x)
        gamma = torch.sigmoid(self.weigh(description))[(...,) + (None,) * (x.ndim - 2)]
        return torch.relu(x + x * gamma), self.present(description)


class EncNet(nn.Module):
    """EncNet on (B, in_channels, *S) -> logits (B, classes, *S).

    codes: codewords K. lateral: stages 3 and 4 joined to the last. In training mode `extras["presence"]` are logits
    (B, classes) of the classes' presence; `training_step` adds their loss.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        channels: int = 512,
        codes: int = 32,
        lateral: bool = False,
    ) -> None:
        super().__init__()
        self.dims, self.divisor = dims, (8,) * dims
        self.encoder = make_resnet(backbone, dims, in_channels, 8, deep_stem=True)
        widths = self.encoder.channels
        self.enter = ConvNormAct(dims, widths[-1], channels, 3)
        self.lateral = nn.ModuleList(ConvNormAct(dims, w, channels, 1) for w in widths[1:3] if lateral)
        self.fuse = ConvNormAct(dims, 3 * channels, channels, 3) if lateral else nn.Identity()
        self.context = ContextEncoding(dims, channels, classes, codes)
        self.classify = nn.Sequential(nd.DROPOUT[dims](0.1), plain_conv(dims, channels, classes, 1))
        self.auxiliary = FCNHead(dims, widths[-2], classes, max(widths[-2] // 4, 1))

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        features: Sequence[Tensor] = self.encoder(x)
        laterals = [f(feature) for f, feature in zip(self.lateral, features[1:3], strict=False)]
        joined = self.fuse(torch.cat([self.enter(features[-1]), *laterals], dim=1))
        weighed, presence = self.context(joined)
        logits = nd.resize(self.classify(weighed), size)
        if not self.training:
            return logits
        other = nd.resize(self.auxiliary(features[-2]), size)
        return Outputs(logits, (other,), (AUXILIARY_WEIGHT,), {"presence": presence})

    def training_step(
        self,
        images: Tensor,
        targets: Tensor,
        objective: Callable[[Outputs, Tensor], Tensor],
        known: Tensor | None = None,
    ) -> Tensor:
        """The pipeline's loss on the logits, and the SE-loss on the classes' presence."""
        outputs = self(images)
        return objective(outputs, targets) + SE_WEIGHT * presence_loss(
            outputs.extras["presence"], targets, self.dims, known
        )
