"""ESANet. Seichter, Koehler, Lewandowski, Wengefeld, Gross, ICRA 2021, arXiv:2011.06961.

Colour and depth (or any two modalities) are encoded each by a ResNet-34 of factorised units (a ResNet-50 keeps its
bottlenecks); at five resolutions the depth features are added to the colour features after squeeze-and-excitation of
both, so that each channel counts where it is trustworthy. Pooled context and a decoder whose upsampling is learned
from a linear start restore the resolution; side outputs at an eighth, a sixteenth and a thirty-second of the image
are trained too.
Differs from the paper: depth is the last channel(s) of the one input; an image of a single channel goes to both
encoders. Volumes split the 3x3x3 into three factors and pool 5x5x5 parts.
Oracle: none kept; 46.96 M with 40 classes, counted by building the authors' network with ResNet-34 of factorised units.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.zoo.encoders.resnet import Residual, Unit
from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.gates import SqueezeExcite
from medseg.zoo.layers.pooling import PyramidPooling
from medseg.zoo.layers.upsample import LearnedDoubling
from medseg.zoo.outputs import Outputs

FACTORISED = Residual((1, 1, 1, 1), bottleneck=False, factorised=True)


class WeighedSum(nn.Module):
    """SE(colour) + SE(depth): (B, C, *s) twice -> (B, C, *s)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.colour, self.depth = SqueezeExcite(channels), SqueezeExcite(channels)

    def forward(self, colour: Tensor, depth: Tensor) -> Tensor:
        return self.colour(colour) + self.depth(depth)


class DecoderModule(nn.Module):
    """3x3 to `width`, factorised units, doubling, plus a skip; also scores on the grid before doubling."""

    def __init__(self, dims: int, inputs: int, width: int, skip: int, classes: int, blocks: int) -> None:
        super().__init__()
        units = (Unit(dims, width, width, FACTORISED, 1, (1, 1)) for _ in range(blocks))
        self.refine = nn.Sequential(ConvNormAct(dims, inputs, width, 3), *units)
        self.side = plain_conv(dims, width, classes, 1)
        self.up = LearnedDoubling(dims, width)
        self.skip = nn.Identity() if skip == width else ConvNormAct(dims, skip, width, 1)

    def forward(self, x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.refine(x)
        return self.up(x) + self.skip(skip), self.side(x) if self.training else None


class ESANet(nn.Module):
    """ESANet on (B, in_channels, *S) -> logits (B, classes, *S); the last depth_channels channels are depth.

    decoder: widths of the decoder modules, coarsest first; blocks: factorised units in each.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet34",
        depth_channels: int = 1,
        decoder: Sequence[int] = (512, 256, 128),
        blocks: int = 3,
    ) -> None:
        super().__init__()
        self.divisor = (32,) * dims
        if in_channels > 1 and not 0 < depth_channels < in_channels:
            raise ValueError(f"depth_channels is {depth_channels} of {in_channels}; one is left for colour")
        self.depth_channels = depth_channels if in_channels > 1 else 0
        colours, depths = max(in_channels - self.depth_channels, 1), max(self.depth_channels, 1)
        self.colour = make_resnet(backbone, dims, colours, factorised=True)
        self.depth = make_resnet(backbone, dims, depths, factorised=True)
        channels = (self.colour.half_channels, *self.colour.channels)
        self.fuse = nn.ModuleList(WeighedSum(c) for c in channels)
        pooling = PyramidPooling(dims, channels[-1], channels[-1] // 2, (1, 5), "nearest")
        self.context = nn.Sequential(pooling, ConvNormAct(dims, pooling.channels, decoder[0], 1))
        inputs = (decoder[0], *decoder[:-1])
        skips = channels[-2:0:-1]
        self.decoder = nn.ModuleList(
            DecoderModule(dims, i, width, skip, classes, blocks)
            for i, width, skip in zip(inputs, decoder, skips, strict=True)
        )
        self.classify = nn.Sequential(
            plain_conv(dims, decoder[-1], classes, 3),
            LearnedDoubling(dims, classes),
            LearnedDoubling(dims, classes),
        )

    def encode(self, x: Tensor) -> list[Tensor]:
        """Fused features at strides 4, 8, 16, 32."""
        colours = x.shape[1] - self.depth_channels
        colour = self.colour.half(x[:, :colours])
        depth = self.depth.half(x[:, colours:] if self.depth_channels else x)
        fused = self.colour.pool(self.fuse[0](colour, depth))
        depth = self.depth.pool(depth)
        features = []
        for fuse, see, feel in zip(self.fuse[1:], self.colour.stages, self.depth.stages, strict=True):
            depth = feel(depth)
            fused = fuse(see(fused), depth)
            features.append(fused)
        return features

    def forward(self, x: Tensor) -> Tensor | Outputs:
        *skips, deepest = self.encode(x)
        y = self.context(deepest)
        sides = []
        for module, skip in zip(self.decoder, reversed(skips), strict=True):
            y, side = module(y, skip)
            sides.append(side)
        logits = self.classify(y)
        return Outputs(logits, tuple(reversed(sides)), (1.0, 1.0, 1.0)) if self.training else logits
