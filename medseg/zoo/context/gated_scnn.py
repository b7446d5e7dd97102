"""Gated-SCNN. Takikawa, Acuna, Jampani, Fidler, ICCV 2019, arXiv:1907.05740.

Shape gets a stream of its own beside the usual one: few channels at full resolution, whose gates let pass only what
deeper features of the usual stream take for a boundary. Its edge map, with the image's own edges, enters an atrous
pyramid as one more branch. Edges are trained for, and segmentation and edges must agree.
Differs from the paper: the loss on the logits is the pipeline's (the authors weigh classes by their share of an
image). The other terms follow the paper where the released code departs from it: the edge loss takes probabilities as
such, and the regulariser differentiates along each axis. The image's outer border is no edge. The image's edges are
Canny's in as many dimensions as it has, on channels brought to 0..255. Volumes use 3D layers; the shape stream is at
full resolution, so take a smaller `width` there; smaller `rates` suit small patches.
Oracle: none installed; counted by the layers of the authors' code, 137.3 M with 19 classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.encoders.hrnet import BASIC
from medseg.zoo.encoders.resnet import Unit
from medseg.zoo.encoders.wide_resnet import FULL_WIDTH, UNITS, WideResNet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.edges import canny, differences, label_edges, smoothed
from medseg.zoo.layers.label_masks import label_masks
from medseg.zoo.outputs import Outputs

EDGE_WEIGHT = 20.0
EDGE_CERTAIN = 0.8
TEMPERATURE = 0.5


class GatedConv(nn.Module):
    """Equations 1 and 2: 1x1 of shape * (1 + alpha), alpha (B, 1, *S) from shape and one channel of the other stream."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        joined = channels + 1
        self.gate = nn.Sequential(
            nd.make_norm("batch", dims, joined),
            plain_conv(dims, joined, joined, 1),
            nn.ReLU(),
            plain_conv(dims, joined, 1, 1),
            nd.make_norm("batch", dims, 1),
            nn.Sigmoid(),
        )
        self.conv = plain_conv(dims, channels, channels, 1, bias=False)

    def forward(self, shape: Tensor, side: Tensor) -> Tensor:
        return self.conv(shape * (1 + self.gate(torch.cat([shape, side], dim=1))))


class ShapeStream(nn.Module):
    """[stages 1, 3, 4, 7] -> logits (B, 1, *S) of edges, three times: residual unit, 1x1 to half, gate."""

    def __init__(self, dims: int, channels: Sequence[int]) -> None:
        super().__init__()
        width = channels[0]
        widths = [max(width // 2**i, 1) for i in range(4)]
        self.sides = nn.ModuleList(plain_conv(dims, c, 1, 1) for c in channels[1:])
        self.units = nn.ModuleList(Unit(dims, w, w, BASIC, 1, (1, 1)) for w in widths[:3])
        self.narrow = nn.ModuleList(plain_conv(dims, widths[i], widths[i + 1], 1) for i in range(3))
        self.gates = nn.ModuleList(GatedConv(dims, w) for w in widths[1:])
        self.fuse = plain_conv(dims, widths[3], 1, 1, bias=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x, *others = features
        for i, other in enumerate(others):
            side = nd.resize(self.sides[i](other), x.shape[2:], align_corners=True)
            x = self.gates[i](self.narrow[i](self.units[i](x)), side)
        return self.fuse(x)


class EdgePyramid(nn.Module):
    """Atrous pyramid with image pooling and a branch of the edge map: six branches mixed by 1x1."""

    def __init__(self, dims: int, inputs: int, channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.image = ConvNormAct(dims, inputs, channels, 1)
        self.edge = ConvNormAct(dims, 1, channels, 1)
        self.point = ConvNormAct(dims, inputs, channels, 1)
        self.atrous = nn.ModuleList(ConvNormAct(dims, inputs, channels, 3, dilation=r) for r in rates)
        self.project = plain_conv(dims, (3 + len(rates)) * channels, channels, 1, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        size = x.shape[2:]
        image = self.image(nd.global_average(x)).expand(-1, -1, *size)
        edge = self.edge(nd.resize(edges, size, align_corners=True))
        branches = [image, edge, self.point(x), *(branch(x) for branch in self.atrous)]
        return self.project(torch.cat(branches, dim=1))


class GatedSCNN(nn.Module):
    """Gated-SCNN on (B, in_channels, *S) -> logits (B, classes, *S).

    width, units: of the WRN-38. channels: of the pyramid's branches and the decoder. rates: of its dilated branches.
    In training mode `extras["edges"]` are logits (B, 1, *S) of boundaries; `training_step` adds what is asked of them.
    """

    undrawn_as_ignored = True

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        width: int = FULL_WIDTH,
        units: Sequence[int] = UNITS,
        channels: int = 256,
        rates: Sequence[int] = (12, 24, 36),
    ) -> None:
        super().__init__()
        self.dims, self.divisor = dims, (8,) * dims
        self.encoder = WideResNet(dims, in_channels, width, units, 8, last_norm=False)
        wide = self.encoder.channels
        self.shape_stream = ShapeStream(dims, (wide[0], wide[2], wide[3], wide[6]))
        self.with_image = plain_conv(dims, 2, 1, 1, bias=False)
        self.pyramid = EdgePyramid(dims, wide[6], channels, rates)
        reduced = max(48 * channels // 256, 1)
        self.reduce = plain_conv(dims, wide[1], reduced, 1, bias=False)
        self.refine = nn.Sequential(
            ConvNormAct(dims, channels + reduced, channels, 3),
            ConvNormAct(dims, channels, channels, 3),
            plain_conv(dims, channels, classes, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor | Outputs:
        features = self.encoder(x)
        edge_logits = self.shape_stream([features[i] for i in (0, 2, 3, 6)])
        both = torch.cat([torch.sigmoid(edge_logits), canny(x).to(edge_logits.dtype)], dim=1)
        deep = self.pyramid(features[6], torch.sigmoid(self.with_image(both)))
        fine = self.reduce(features[1])
        joined = torch.cat([fine, nd.resize(deep, fine.shape[2:], align_corners=True)], dim=1)
        logits = nd.resize(self.refine(joined), x.shape[2:])
        return Outputs(logits, extras={"edges": edge_logits}) if self.training else logits

    def training_step(
        self, images: Tensor, targets: Tensor, objective: Callable[[Outputs, Tensor], Tensor]
    ) -> Tensor:
        """The pipeline's loss on the logits, 20 times that on edges, and two terms that tie both together."""
        outputs = self(images)
        return objective(outputs, targets) + shape_loss(outputs, targets, self.dims)


def shape_loss(outputs: Outputs, targets: Tensor, dims: int) -> Tensor:
    """Equations 4 to 8: balanced edge loss, entropy of the logits on certain edges, agreement of gradients."""
    logits, edge_logits = outputs.main.float(), outputs.extras["edges"].float()
    masks, counts = label_masks(targets, logits.shape[1], dims)
    if not counts.any():
        return edge_logits.sum() * 0.0
    edges = label_edges(masks, counts)
    share = edges.sum() / counts.sum()
    weight = torch.where(edges, 1 - share, share) * counts
    edge_loss = F.binary_cross_entropy_with_logits(edge_logits, edges.float(), weight)
    exclusive = targets.ndim == dims + 1
    certain = (torch.sigmoid(edge_logits) > EDGE_CERTAIN) & counts
    entropy = (
        -(masks * logits.log_softmax(dim=1)).sum(dim=1, keepdim=True)
        if exclusive
        else F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(dim=1, keepdim=True)
    )
    focused = (entropy * certain).sum() / certain.sum().clamp_min(1)
    drawn = gumbel_classes(logits, exclusive) * counts
    return EDGE_WEIGHT * edge_loss + focused + boundary_disagreement(drawn, masks)


def gumbel_classes(logits: Tensor, exclusive: bool) -> Tensor:
    """Nearly one-hot classes drawn from the logits, with gradients: softmax((z + Gumbel noise) / 0.5)."""
    noise = -torch.log(-torch.log(torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)))
    if exclusive:
        return torch.softmax((logits + noise) / TEMPERATURE, dim=1)
    other = -torch.log(-torch.log(torch.rand_like(logits).clamp(1e-6, 1 - 1e-6)))
    return torch.sigmoid((logits + noise - other) / TEMPERATURE)


def boundary_disagreement(drawn: Tensor, masks: Tensor) -> Tensor:
    """Mean difference of the boundary strengths |grad(G * p)| / sqrt 2, where the one or the other has a boundary."""
    squares = [differences(smoothed(p)).square().sum(dim=2) / 2 for p in (drawn, masks)]
    predicted, wanted = (torch.sqrt(s + 1e-8) for s in squares)
    apart = (predicted - wanted).abs()
    parts = [(apart * (s > 1e-8)).sum() / (s > 1e-8).sum().clamp_min(1) for s in squares]
    return (parts[0] + parts[1]) / 2
