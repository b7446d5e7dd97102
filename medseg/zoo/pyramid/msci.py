"""MSCI, multi-scale context intertwining. Lin, Ji, Lischinski, Cohen-Or, Huang, ECCV 2018,
doi:10.1007/978-3-030-01219-9_37.

Context should flow between scales in both directions and more than once: two feature maps of adjacent resolution are
read by two chains of LSTM units, each of which sees at every step what the other remembers. What is passed over is
gathered by super-pixels, from the one a position lies in and those that touch it, so that the routes follow the image.
Pairs of adjacent maps are intertwined and joined again and again until one map is left.
Differs from the paper: known from its abstract, introduction and figures; not confirmed: 256 channels, three steps a
chain, 3x3 gates, the join as a sum of the finer state and the interpolated coarser one, a pair's own weights, means
over touching super-pixels with equal weight a position, and about 200 super-pixels (SLIC, in volumes supervoxels).
States start from 0. One loss at the end.
Oracle: none kept; the unit by an LSTM's equations, the routes by their definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.superpixels import neighbours, sizes_of, slic, sum_over


class Routes:
    """Which positions hear of which: the superpixels of a batch of images and those that touch them.

    labels: (B, *S), numbers below `count`.
    """

    def __init__(self, labels: Tensor, count: int) -> None:
        self.labels, self.count = labels, count
        self.touching = [neighbours(label, count) for label in labels]

    def gather(self, x: Tensor) -> Tensor:
        """(B, C, *s) -> the same: at each position the mean of x over its superpixel and all that touch it."""
        labels = nd.resize(self.labels[:, None].float(), x.shape[2:], "nearest")[:, 0].long()
        found = []
        for sample, label, touching in zip(x, labels, self.touching, strict=True):
            flat, rows = label.flatten(), sample.flatten(1).T.float()
            total = touching @ sum_over(rows, flat, self.count)
            means = total / (touching @ sizes_of(flat, self.count, rows)).clamp_min(1)
            found.append(means[flat].T.reshape(sample.shape).to(x.dtype))
        return torch.stack(found)


class ContextLSTM(nn.Module):
    """A convolutional LSTM unit: gates from the map, what the chain remembers, and the other chain's context."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.gates = plain_conv(dims, 3 * channels, 4 * channels, 3)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """All (B, C, *s) -> new hidden and cell state."""
        gates = self.gates(torch.cat([x, hidden, context], dim=1))
        enter, forget, leave, new = gates.chunk(4, dim=1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
        return torch.sigmoid(leave) * torch.tanh(cell), cell


class Intertwine(nn.Module):
    """Two maps of adjacent resolution -> one on the finer grid, by two chains that hear each other at every step."""

    def __init__(self, dims: int, channels: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.fine, self.coarse = ContextLSTM(dims, channels), ContextLSTM(dims, channels)
        self.join = ConvNormAct(dims, channels, channels, 3)

    def forward(self, fine: Tensor, coarse: Tensor, routes: Routes) -> Tensor:
        h_fine, h_coarse = torch.zeros_like(fine), torch.zeros_like(coarse)
        c_fine, c_coarse = h_fine, h_coarse
        for _ in range(self.steps):
            to_fine = routes.gather(nd.resize(h_coarse, fine.shape[2:]))
            to_coarse = nd.resize(routes.gather(h_fine), coarse.shape[2:])
            h_fine, c_fine = self.fine(fine, h_fine, c_fine, to_fine)
            h_coarse, c_coarse = self.coarse(coarse, h_coarse, c_coarse, to_coarse)
        return self.join(fine + h_fine + nd.resize(coarse + h_coarse, fine.shape[2:]))


class MSCI(nn.Module):
    """MSCI on (B, in_channels, *S) -> logits (B, classes, *S).

    channels: width of all maps. steps: of the LSTM chains. superpixels: about how many an image is cut into.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet152",
        channels: int = 256,
        steps: int = 3,
        superpixels: int = 200,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps is {steps}; it is 1 or more")
        self.divisor, self.superpixels = (32,) * dims, superpixels
        self.encoder = make_resnet(backbone, dims, in_channels)
        self.reduce = nn.ModuleList(ConvNormAct(dims, width, channels, 1) for width in self.encoder.channels)
        rounds = range(len(self.encoder.channels) - 1, 0, -1)
        self.rounds = nn.ModuleList(
            nn.ModuleList(Intertwine(dims, channels, steps) for _ in range(pairs)) for pairs in rounds
        )
        self.classify = plain_conv(dims, channels, classes, 1)

    def combine(self, maps: Sequence[Tensor], routes: Routes) -> Tensor:
        """Intertwines adjacent maps (finest first), round by round, until one is left."""
        for pairs in self.rounds:
            joined = zip(pairs, pairwise(maps), strict=True)  # type: ignore[arg-type]
            maps = [intertwine(fine, coarse, routes) for intertwine, (fine, coarse) in joined]
        return maps[0]

    def forward(self, x: Tensor) -> Tensor:
        routes = Routes(*slic(x, self.superpixels))
        maps = [reduce(feature) for reduce, feature in zip(self.reduce, self.encoder(x), strict=True)]
        return nd.resize(self.classify(self.combine(maps, routes)), x.shape[2:])
