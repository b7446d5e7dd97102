"""HANet, height-driven attention. Choi, Kim, Choo, CVPR 2020, arXiv:2003.05128.

What is where depends on height: sky above, road below; lungs above, bladder below. The rows of a feature map are
averaged, and small 1D convolutions over 16 rows, told their position, predict for every row a weight for each channel
of the next layer. Four such modules stand in DeepLab v3+, at the cost of about a million weights.
Differs from the paper: the position of a row is that in the patch, where the authors know its place in the whole
image; patches that span the axis lose nothing. In volumes, rows are slices across the last axis, cranio-caudal in
data prepared to RAS order, and the other two axes are averaged; on maps of 6 voxels a side, as of 96^3 at stride 16,
the pyramid's rates read padding beside their own place.
Oracle: none kept (the authors' code may not be used commercially); the module by its equations.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, Style, plain_conv
from medseg.zoo.layers.pooling import ASPP
from medseg.zoo.outputs import Outputs


def sinusoids(positions: int, channels: int) -> Tensor:
    """1 + sin, 1 + cos of p / cycle^(2 floor(c/2) / channels), cycle 10 above 50 channels, else 100: (C, positions)."""
    cycle = 10.0 if channels > 50 else 100.0
    channel = torch.arange(channels, device="cpu")
    power = torch.pow(torch.tensor(cycle, device="cpu"), 2 * (channel // 2) / channels)
    angle = torch.arange(positions, device="cpu")[None] / power[:, None]
    return 1 + torch.where(channel[:, None] % 2 == 0, angle.sin(), angle.cos())


class HeightAttention(nn.Module):
    """Features (B, inputs, *s) -> weights in 0..1 for each row and channel of later ones (B, outputs, rows).

    axis: spatial axis along which height is measured. rows: parts into which it is averaged. reduction: r of the 1D
    convolutions. noise: standard deviation of the position of a row, in rows, while training.
    """

    table: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        axis: int,
        rows: int = 16,
        reduction: int = 32,
        dropout: float = 0.1,
        noise: float = 0.5,
    ) -> None:
        super().__init__()
        self.axis, self.rows, self.noise = axis, rows, noise
        inner = math.ceil(inputs / reduction)
        self.dropout = nn.Dropout1d(dropout)
        self.first = nn.Sequential(nn.Conv1d(inputs, inner, 1, bias=False), nn.BatchNorm1d(inner), nn.ReLU())
        self.rest = nn.Sequential(
            nn.Conv1d(inner, 2 * inner, 3, padding=1),
            nn.BatchNorm1d(2 * inner),
            nn.ReLU(),
            nn.Conv1d(2 * inner, outputs, 3, padding=1),
        )
        self.register_buffer("table", sinusoids(rows + 1, inner), persistent=False)

    def positions(self, batch: int) -> Tensor:
        """Which line of the table each row gets: (B, rows); moved by at most two rows while training."""
        places = torch.arange(self.rows, device=self.table.device).expand(batch, -1)
        if not self.training or self.noise <= 0:
            return places
        moved = (torch.randn(places.shape, device=places.device) * self.noise).floor().clamp(-2, 2).long()
        return (places + moved).clamp(0, self.rows)

    def forward(self, x: Tensor) -> Tensor:
        line = x.movedim(2 + self.axis, 2).flatten(3).mean(dim=3)
        line = self.first(self.dropout(F.adaptive_avg_pool1d(line, self.rows)))
        line = line + self.table.T[self.positions(x.shape[0])].transpose(1, 2).to(line.dtype)
        return torch.sigmoid(self.rest(line))

    def weigh(self, weights: Tensor, later: Tensor) -> Tensor:
        """Later features times the weights, interpolated to their rows."""
        weights = F.interpolate(weights, size=later.shape[2 + self.axis], mode="linear")
        shape = [1] * later.ndim
        shape[:2], shape[2 + self.axis] = later.shape[:2], later.shape[2 + self.axis]
        return later * weights.reshape(shape)


class HANet(nn.Module):
    """DeepLab v3+ with height attention on (B, in_channels, *S) -> logits (B, classes, *S).

    output_stride: 16 or 8. channels: width of pyramid and decoder. axis: of height (None: rows of a plane, the last
    axis of a volume).
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        output_stride: int = 16,
        channels: int = 256,
        axis: int | None = None,
    ) -> None:
        super().__init__()
        axis = (0 if dims == 2 else dims - 1) if axis is None else axis
        if not 0 <= axis < dims:
            raise ValueError(f"axis is {axis}; it is 0 to {dims - 1}")
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride is {output_stride}; it is 8 or 16")
        self.divisor = (output_stride,) * dims
        cycles = ((5, (2,)),) if output_stride == 16 else ((4, (2,)), (5, (4,)))
        self.encoder = make_resnet(backbone, dims, in_channels, output_stride, deep_stem=True, cycles=cycles)
        low, *_, before, deepest = self.encoder.channels
        fine, wide = max(48 * channels // 256, 1), 5 * channels
        rates = [rate * 16 // output_stride for rate in (6, 12, 18)]
        self.pyramid = ASPP(dims, deepest, channels, rates)
        self.mix, self.pyramid.project = self.pyramid.project, nn.Identity()
        self.reduce = ConvNormAct(dims, low, fine, 1)
        self.refine = nn.Sequential(
            ConvNormAct(dims, fine + channels, channels, 3), ConvNormAct(dims, channels, channels, 3)
        )
        self.classify = plain_conv(dims, channels, classes, 1)
        pairs = ((before, deepest), (deepest, wide), (wide, channels), (fine + channels, channels))
        self.height = nn.ModuleList(HeightAttention(i, o, axis) for i, o in pairs)
        self.auxiliary = nn.Sequential(
            ConvNormAct(dims, before, 2 * channels, 3, Style(bias=True)),
            nd.DROPOUT[dims](0.1),
            plain_conv(dims, 2 * channels, classes, 1),
        )

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        low, *_, before, deepest = self.encoder(x)
        deepest = self._gate(0, before, deepest)
        pyramid = self._gate(1, deepest, self.pyramid(deepest))
        coarse = self._gate(2, pyramid, self.mix(pyramid))
        fine = self.reduce(low)
        joined = torch.cat([fine, nd.resize(coarse, fine.shape[2:])], dim=1)
        logits = nd.resize(self.classify(self._gate(3, joined, self.refine(joined))), size)
        if not self.training:
            return logits
        return Outputs(logits, (nd.resize(self.auxiliary(before), size),), (0.4,))

    def _gate(self, number: int, earlier: Tensor, later: Tensor) -> Tensor:
        module = self.height[number]
        return module.weigh(module(earlier), later)
