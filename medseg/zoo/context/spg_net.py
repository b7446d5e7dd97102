"""SPGNet. Cheng, Chen, Wei, Zhu, Huang, Xiong, Huang, Hwu, Shi, ICCV 2019, arXiv:1908.09798.

Two smaller encoder-decoders in series do better than one large one, if the second is told what the first found.
Between them the features pass a semantic prediction guidance: "supervise and excite", a 1x1 prediction that is
trained on the labels and whose 1x1 and sigmoid weigh every channel at every position. The second encoder also gets
the first one's encoder and decoder features of each size (cross-stage aggregation), so that nothing is read twice.
Differs from the paper: none known; `stages` may be more than two. Volumes use 3D layers.
Not confirmed: 256 channels in the decoders, the 64 channels by which a stage enters the next and the sums of
cross-stage features (both as in the multi-stage pose network the paper names), and equal weights of the stages.
Oracle: none; no code of the authors is public, and the paper's parameter count could not be read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.resnet import Residual, Unit
from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv
from medseg.zoo.outputs import Outputs

BARE = Style("batch", "none")
BOTTLENECK = Residual((1, 1, 1, 1))


class Guidance(nn.Module):
    """Supervise and excite: (B, C, *s) -> the features weighed by what is predicted there, and the prediction."""

    def __init__(self, dims: int, channels: int, classes: int) -> None:
        super().__init__()
        self.predict = plain_conv(dims, channels, classes, 1)
        self.excite = plain_conv(dims, classes, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.predict(x)
        return x * torch.sigmoid(self.excite(logits)), logits


class Decoder(nn.Module):
    """Encoder features (finest first) -> decoder features of `width` channels on the same grids.

    The coarsest knows the mean over the image; each finer one is a 1x1 of the encoder's plus the doubled coarser one,
    then a bottleneck unit.
    """

    def __init__(self, dims: int, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.image = ConvNormAct(dims, channels[-1], width, 1, BARE)
        self.lateral = nn.ModuleList(ConvNormAct(dims, c, width, 1, BARE) for c in channels)
        self.units = nn.ModuleList(Unit(dims, width, width // 4, BOTTLENECK, 1, (1, 1)) for _ in channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        above = self.image(nd.global_average(features[-1]))
        decoded: list[Tensor] = []
        for x, lateral, unit in zip(
            reversed(features), reversed(self.lateral), reversed(self.units), strict=True
        ):
            size = x.shape[2:]
            above = unit(torch.relu(lateral(x) + nd.resize(above, size)))
            decoded.insert(0, above)
        return decoded


class Stage(nn.Module):
    """One encoder-decoder: (B, C, *S) and the features of the stage before -> encoder and decoder features.

    first: it reads the image (stride 4 by a stem); else features at a quarter of the image with `width` channels.
    """

    def __init__(self, dims: int, inputs: int, backbone: str, width: int, first: bool) -> None:
        super().__init__()
        self.encoder = make_resnet(backbone, dims, inputs if first else 1)
        half, channels = self.encoder.half_channels, self.encoder.channels
        self.cross = nn.ModuleList()
        if not first:
            self.encoder.entry = nn.Sequential(ConvNormAct(dims, inputs, half, 1))
            self.encoder.pool = nn.Identity()
            for c in channels:
                self.cross.append(nn.ModuleList([ConvNormAct(dims, c, c, 1), ConvNormAct(dims, width, c, 1)]))
        self.decoder = Decoder(dims, channels, width)

    def forward(
        self, x: Tensor, before: Sequence[Sequence[Tensor]] = ()
    ) -> tuple[list[Tensor], list[Tensor]]:
        x = self.encoder.pool(self.encoder.half(x))
        features = []
        for level, stage in enumerate(self.encoder.stages):
            x = stage(x)
            if before:
                for one, way in zip(before, self.cross[level], strict=True):
                    x = x + way(one[level])
            features.append(x)
        return features, self.decoder(features)


class SPGNet(nn.Module):
    """SPGNet on (B, in_channels, *S) -> logits (B, classes, *S).

    backbone: a ResNet, of each stage. width: channels of the decoders, a multiple of 4. stages: encoder-decoders.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet50",
        width: int = 256,
        stages: int = 2,
    ) -> None:
        super().__init__()
        if stages < 1 or width % 4:
            raise ValueError(f"stages is {stages} and width {width}; at least 1, and a multiple of 4")
        self.divisor = (32,) * dims
        self.stages = nn.ModuleList(
            Stage(dims, width if i else in_channels, backbone, width, i == 0) for i in range(stages)
        )
        self.guides = nn.ModuleList(Guidance(dims, width, classes) for _ in range(stages - 1))
        self.classify = plain_conv(dims, width, classes, 1)

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        before: Sequence[Sequence[Tensor]] = ()
        others = []
        for number, stage in enumerate(self.stages):
            before = stage(x, before)
            x = before[1][0]
            if number < len(self.guides):
                x, logits = self.guides[number](x)
                others.append(nd.resize(logits, size))
        main = nd.resize(self.classify(x), size)
        return Outputs(main, tuple(reversed(others)), (1.0,) * len(others)) if self.training else main
