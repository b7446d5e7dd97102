"""Dense prediction transformer. Ranftl, Bochkovskiy, Koltun, ICCV 2021, arXiv:2103.13413.

A vision transformer keeps one resolution and a global view from its first layer to its last. Its tokens after four
layers are reassembled to maps at a quarter to a thirty-second of the image (each told what the token of the whole
image knows) and fused from coarse to fine by residual convolutions as in RefineNet. An auxiliary head on the last
fusion but one is trained with weight 0.2.
Differs from the paper: DPT-Large and DPT-Base; the hybrid with a ResNet before the transformer is not built. The
residual unit that the coarsest fusion has but never uses is left out. Attention is quadratic in the number of
patches of 16 voxels a side: 216 of them in 96^3.
Oracle: the transformers library's DPTForSemanticSegmentation with equal weights gives equal logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.core.errors import did_you_mean
from medseg.zoo.encoders.vit import VITS, VisionTransformer
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv
from medseg.zoo.layers.heads import FCNHead
from medseg.zoo.outputs import Outputs


class Reassemble(nn.Module):
    """Tokens (B, 1 + N, width) -> map (B, outputs, *grid * factor): read, project, resample (section 3.1)."""

    def __init__(self, dims: int, width: int, channels: int, outputs: int, factor: float) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Linear(2 * width, width), nn.GELU())
        self.project = nd.CONV[dims](width, channels, 1)
        self.resample: nn.Module = nn.Identity()
        if factor > 1:
            self.resample = nd.CONV_TRANSPOSE[dims](channels, channels, int(factor), int(factor))
        elif factor < 1:
            self.resample = plain_conv(dims, channels, channels, 3, stride=round(1 / factor))
        self.out = plain_conv(dims, channels, outputs, 3, bias=False)

    def forward(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        whole, patches = tokens[:, :1], tokens[:, 1:]
        read = self.read(torch.cat([patches, whole.expand_as(patches)], dim=2))
        return self.out(self.resample(self.project(read.transpose(1, 2).unflatten(2, tuple(grid)))))


class ResidualConv(nn.Module):
    """x + BN(conv(relu(BN(conv(relu(x))))))."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.first = ConvNormAct(dims, channels, channels, 3, Style("batch", "relu"))
        self.second = ConvNormAct(dims, channels, channels, 3, Style("batch", "none"))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(torch.relu(x)))


class Fusion(nn.Module):
    """What comes from below plus the refined level, refined, doubled, 1x1."""

    def __init__(self, dims: int, channels: int, lowest: bool) -> None:
        super().__init__()
        self.level = None if lowest else ResidualConv(dims, channels)
        self.refine = ResidualConv(dims, channels)
        self.out = plain_conv(dims, channels, channels, 1)

    def forward(self, x: Tensor, level: Tensor | None = None) -> Tensor:
        if self.level is not None and level is not None:
            x = x + self.level(level)
        x = self.refine(x)
        mode = nd.LINEAR[x.ndim - 2]
        return self.out(F.interpolate(x, scale_factor=2, mode=mode, align_corners=True))


class DPT(nn.Module):
    """DPT on (B, in_channels, *S) -> logits (B, classes, *S).

    vit: vit-l, vit-b ...; channels: of the four reassembled maps, finest first; width: of the fusion.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        vit: str = "vit-l",
        channels: Sequence[int] = (256, 512, 1024, 1024),
        width: int = 256,
    ) -> None:
        super().__init__()
        if vit not in VITS:
            raise ValueError(
                f"no vision transformer {vit!r}{did_you_mean(vit, VITS)}; there are {', '.join(VITS)}"
            )
        shape = VITS[vit]
        self.divisor, self.patch = (2 * shape.patch,) * dims, shape.patch
        taps = [(i + 1) * shape.depth // 4 - 1 for i in range(4)]
        self.encoder = VisionTransformer(dims, in_channels, shape, taps)
        self.reassemble = nn.ModuleList(
            Reassemble(dims, shape.width, c, width, factor)
            for c, factor in zip(channels, (4, 2, 1, 0.5), strict=True)
        )
        self.fuse = nn.ModuleList(Fusion(dims, width, lowest=i == 0) for i in range(4))
        self.head = FCNHead(dims, width, classes, width)
        self.auxiliary = FCNHead(dims, width, classes, width)

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        grid = [n // self.patch for n in size]
        *levels, deepest = (f(t, grid) for f, t in zip(self.reassemble, self.encoder(x), strict=True))
        y = before = self.fuse[0](deepest)
        for fuse, level in zip(self.fuse[1:], reversed(levels), strict=True):
            before, y = y, fuse(y, level)
        logits = nd.resize(self.head(y), size, align_corners=True)
        if not self.training:
            return logits
        return Outputs(logits, (nd.resize(self.auxiliary(before), size),), (0.2,))
