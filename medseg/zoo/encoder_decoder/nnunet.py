"""nnU-Net's two networks. Isensee et al., Nature Methods 2021, doi:10.1038/s41592-020-01008-z; residual encoder:
Isensee et al., MICCAI 2024, arXiv:2404.09556.

The network is planned from the data: the number of stages, the stride and the kernel of each follow from spacing and
patch, so that axes of coarse spacing are neither convolved nor pooled before the others have caught up. The plain
form has two convolutions a stage, the residual form a stem and 1, 3, 4, 6, 6, ... basic blocks a stage.
Differs from the paper: none; initial weights as in its package (Kaiming with slope 0.01, last norm of a residual
block 0).
Oracle: parameter counts and output shapes of 12 plans of the nnU-Net package; MONAI 1.6 DynUNet with equal weights
(it has
no biases before norms and after up-convolutions, and its decoder stages take the kernel of the stage below).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.outputs import Outputs

STYLE = Style("instance", "leaky", bias=True)
Axes = Sequence[int]


@dataclass(frozen=True)
class Topology:
    """What a plan decides.

    features_per_stage: channels (None: 32 doubled a stage, at most 320 in 3D and 512 in 2D; 6 stages in 3D, 8 in 2D).
    strides, kernel_sizes: one a stage, a number or one an axis (None: stride 1 then 2; kernel 3).
    blocks_per_stage: convolutions (plain) or residual blocks of the encoder stages. decoder_convs: convolutions of
    the decoder stages, coarsest first. deep_supervision: logits of all decoder levels in training mode.
    """

    features_per_stage: Sequence[int] | None = None
    strides: Sequence[int | Axes] | None = None
    kernel_sizes: Sequence[int | Axes] | None = None
    blocks_per_stage: Sequence[int] | int | None = None
    decoder_convs: Sequence[int] | int | None = None
    deep_supervision: bool = True


@dataclass(frozen=True)
class Stages:
    """A topology with every value spelled out."""

    features: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    blocks: tuple[int, ...]
    convs: tuple[int, ...]


def spelled_out(topology: Topology, dims: int, blocks: Sequence[int], convs: int) -> Stages:
    """Fills in what a topology leaves open; ValueError where the lists do not fit each other."""
    cap, stages = (320, 6) if dims == 3 else (512, 8)
    features = tuple(topology.features_per_stage or (min(cap, 32 * 2**s) for s in range(stages)))
    count = len(features)
    strides = topology.strides or (1, *(2,) * (count - 1))
    kernels = topology.kernel_sizes or (3,) * count
    chosen = topology.blocks_per_stage
    if chosen is None:
        chosen = (*blocks, *(blocks[-1],) * count)[:count]
    in_decoder = convs if topology.decoder_convs is None else topology.decoder_convs
    result = Stages(
        features,
        tuple(_axes(s, dims) for s in strides),
        tuple(_axes(k, dims) for k in kernels),
        (chosen,) * count if isinstance(chosen, int) else tuple(chosen),
        (in_decoder,) * (count - 1) if isinstance(in_decoder, int) else tuple(in_decoder),
    )
    for name, length in (("strides", count), ("kernels", count), ("blocks", count), ("convs", count - 1)):
        if len(getattr(result, name)) != length:
            raise ValueError(f"{name} has {len(getattr(result, name))} entries for {count} stages")
    return result


def _axes(value: int | Axes, dims: int) -> tuple[int, ...]:
    axes = (value,) * dims if isinstance(value, int) else tuple(int(v) for v in value)
    if len(axes) != dims:
        raise ValueError(f"{value} has {len(axes)} axes in a {dims}D network")
    return axes


class ResidualBlock(nn.Module):
    """conv-norm-act, conv-norm, plus the skip, act; the skip is pooled by the stride and projected where it must be."""

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: Axes, stride: Axes) -> None:
        super().__init__()
        bare = Style("instance", "none", bias=True)
        self.path = nn.Sequential(
            ConvNormAct(dims, inputs, outputs, kernel, STYLE, stride=tuple(stride)),
            ConvNormAct(dims, outputs, outputs, kernel, bare),
        )
        self.skip = nn.Sequential()
        if any(s != 1 for s in stride):
            self.skip.append(nd.AVG_POOL[dims](tuple(stride), tuple(stride)))
        if inputs != outputs:
            self.skip.append(ConvNormAct(dims, inputs, outputs, 1, Style("instance", "none", bias=False)))
        self.activation = nd.make_activation("leaky")

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.path(x) + self.skip(x))


class PlannedUNet(nn.Module):
    """Encoder stages from a subclass, the decoder that both forms share, one head a decoder level.

    (B, in_channels, *S) -> logits (B, classes, *S). In training mode with deep supervision `auxiliary` holds the
    coarser levels with weights 1/2, 1/4, ... and 0 for the coarsest, as nnU-Net has them.
    """

    Arguments = Topology

    def __init__(self, dims: int, classes: int, stages: Stages, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        totals = torch.tensor(stages.strides, device="cpu").prod(dim=0)
        self.divisor = tuple(int(n) for n in totals)
        levels = range(len(stages.features) - 2, -1, -1)
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        self.heads = nn.ModuleList()
        for step, level in enumerate(levels):
            here, below, stride = (
                stages.features[level],
                stages.features[level + 1],
                stages.strides[level + 1],
            )
            self.up.append(nd.CONV_TRANSPOSE[dims](below, here, stride, stride))
            self.decoder.append(_convs(dims, 2 * here, here, stages.kernels[level], stages.convs[step]))
            self.heads.append(nd.CONV[dims](here, classes, 1))

    def encode(self, x: Tensor) -> list[Tensor]:
        """The features of the encoder stages, finest first."""
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        return skips

    def forward(self, x: Tensor) -> Tensor | Outputs:
        skips = self.encode(x)
        x = skips.pop()
        every = self.training and self.deep_supervision
        logits: list[Tensor] = []
        for up, convs, head in zip(self.up, self.decoder, self.heads, strict=True):
            x = convs(torch.cat([up(x), skips.pop()], dim=1))
            if every or not skips:
                logits.append(head(x))
        main, *coarser = reversed(logits)
        if not every or not coarser:
            return main
        weights = [0.5 ** (i + 1) for i in range(len(coarser))]
        return Outputs(main, tuple(coarser), (*weights[:-1], 0.0))


def _convs(
    dims: int, inputs: int, outputs: int, kernel: Axes, count: int, stride: Axes = ()
) -> nn.Sequential:
    """`count` conv-norm-act; the first carries the stride and the change of channels."""
    first = ConvNormAct(dims, inputs, outputs, kernel, STYLE, stride=tuple(stride) or 1)
    return nn.Sequential(
        first, *(ConvNormAct(dims, outputs, outputs, kernel, STYLE) for _ in range(count - 1))
    )


class PlainConvUNet(PlannedUNet):
    """nnU-Net's plain network; arguments are those of `Topology`, two convolutions a stage by default."""

    def __init__(self, dims: int, in_channels: int, classes: int, **topology: object) -> None:
        plan = Topology(**topology)  # type: ignore[arg-type]
        stages = spelled_out(plan, dims, (2,), 2)
        super().__init__(dims, classes, stages, plan.deep_supervision)
        inputs = (in_channels, *stages.features[:-1])
        self.encoder = nn.ModuleList(
            _convs(dims, i, o, kernel, count, stride)
            for i, o, kernel, count, stride in zip(
                inputs, stages.features, stages.kernels, stages.blocks, stages.strides, strict=True
            )
        )
        kaiming(self, 0.01)


class ResidualEncoderUNet(PlannedUNet):
    """nnU-Net's residual encoder; blocks 1, 3, 4, 6, 6, ... a stage and one decoder convolution by default."""

    def __init__(self, dims: int, in_channels: int, classes: int, **topology: object) -> None:
        plan = Topology(**topology)  # type: ignore[arg-type]
        stages = spelled_out(plan, dims, (1, 3, 4, 6), 1)
        super().__init__(dims, classes, stages, plan.deep_supervision)
        self.stem = ConvNormAct(dims, in_channels, stages.features[0], stages.kernels[0], STYLE)
        self.encoder = nn.ModuleList()
        inputs = stages.features[0]
        for outputs, kernel, count, stride in zip(
            stages.features, stages.kernels, stages.blocks, stages.strides, strict=True
        ):
            first = ResidualBlock(dims, inputs, outputs, kernel, stride)
            rest = (ResidualBlock(dims, outputs, outputs, kernel, (1,) * dims) for _ in range(count - 1))
            self.encoder.append(nn.Sequential(first, *rest))
            inputs = outputs
        kaiming(self, 0.01)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(module.path[1][1].weight)
                nn.init.zeros_(module.path[1][1].bias)

    def encode(self, x: Tensor) -> list[Tensor]:
        return super().encode(self.stem(x))
