"""CCN, context contrasted features with gated sums. Ding, Jiang, Shuai, Liu, Wang, CVPR 2018,
doi:10.1109/CVPR.2018.00254.

Context drowns small and inconspicuous things, so a chain of blocks subtracts a feature of the surroundings (averaged,
dilated) from a local one and keeps what stands out. Every block and every residual unit of the last three stages gives
class scores of its own, and a gated sum weighs them at each position: a gate a source, passed through a recurrent
chain so that each knows the gates before it, refined together and brought to a sum by softmax.
Differs from the paper: built after the authors' MatConvNet code (scores of every second unit of ResNet-101's fourth
stage, of every third of ResNet-152's, as there). The plain ResNet has strides up to 32; scores are summed at 1/32, 1/16
and 1/8 and interpolated. The code's boundary branch on the second stage belongs to the authors' later work and is left
out; its loss weighs rare classes, here the recipe's choice. Score and gate layers start from small random weights.
Oracle: none kept; contrast and gated sum by their equations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.zoo.encoders.table import make_resnet
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv


class ContextContrast(nn.Module):
    """relu(local(x) - context(mean over 5 voxels an axis)) after batch norm; context is dilated by 5."""

    def __init__(self, dims: int, channels: int, rate: int = 5) -> None:
        super().__init__()
        self.norm = nd.make_norm("batch", dims, channels)
        self.local = plain_conv(dims, channels, channels, 3)
        self.pool, self.margins = nd.AVG_POOL[dims](rate, 1), (rate // 2,) * (2 * dims)
        self.context = plain_conv(dims, channels, channels, 3, dilation=rate)

    def surroundings(self, x: Tensor) -> Tensor:
        """Mean over the window's voxels that lie in the image."""
        inside = self.pool(F.pad(torch.ones_like(x[:1, :1]), self.margins))
        return self.pool(F.pad(x, self.margins)) / inside

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return torch.relu(self.local(x) - self.context(self.surroundings(x)))


class Gate(nn.Sequential):
    """One value in 0..1 a position: sigmoid of a 1x1 convolution of normalised features."""

    def __init__(self, dims: int, inputs: int) -> None:
        super().__init__(
            nd.make_norm("batch", dims, inputs), nn.ReLU(), plain_conv(dims, inputs, 1, 1), nn.Sigmoid()
        )


class GatedSum(nn.Module):
    """Sums scores by gates that know each other. sources: channels of the features; before: whether coarser scores
    and the coarser chain's last state come in first.

    The chain: h_i = tanh(w [h_(i-1), g_i] + b) with weights `step` that all sums share.
    """

    def __init__(self, dims: int, sources: Sequence[int], inner: int, classes: int, before: bool) -> None:
        super().__init__()
        self.scores = nn.ModuleList(
            nn.Sequential(ConvNormAct(dims, inputs, inner, 1), plain_conv(dims, inner, classes, 1))
            for inputs in sources
        )
        self.gates = nn.ModuleList(Gate(dims, inputs) for inputs in sources)
        self.first = None if before else plain_conv(dims, 1, 1, 1)
        count = len(sources) + before
        self.norm = nd.make_norm("batch", dims, count)
        self.refine = plain_conv(dims, count, count, 1)
        self.importance = nn.Parameter(torch.ones(count))
        nn.init.zeros_(self.refine.weight)  # type: ignore[arg-type]
        if self.first is not None:
            nn.init.constant_(self.first.weight, 0.24)  # type: ignore[arg-type]

    def weights(
        self, features: Sequence[Tensor], step: nn.Module, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(B, count, *s), summing to 1 over the sources, and the chain's last state (B, 1, *s)."""
        states = [] if state is None else [state]
        for feature, gate in zip(features, self.gates, strict=True):
            value = gate(feature)
            if states:
                value = step(torch.cat([states[-1], value], dim=1))
            elif self.first is not None:
                value = self.first(value)
            states.append(torch.tanh(value))
        chain = torch.cat(states, dim=1)
        return torch.softmax(chain + self.refine(self.norm(chain)), dim=1), states[-1]

    def forward(
        self, features: Sequence[Tensor], step: nn.Module, coarser: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Scores (B, K, *s) and the chain's last state; coarser: both from the sum before, on this grid."""
        scores = [score(feature) for score, feature in zip(self.scores, features, strict=True)]
        if coarser is not None:
            scores.insert(0, coarser[0])
        weights, state = self.weights(features, step, None if coarser is None else coarser[1])
        weights = weights * self.importance.view(1, -1, *(1,) * (weights.ndim - 2)) * len(scores)
        total = sum(score * weights[:, i : i + 1] for i, score in enumerate(scores))
        assert isinstance(total, Tensor)
        return total, state


class CCN(nn.Module):
    """CCN on (B, in_channels, *S) -> logits (B, classes, *S). channels: width of contrast and score layers.
    contrasts: number of context contrast blocks."""

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "resnet101",
        channels: int = 512,
        contrasts: int = 6,
    ) -> None:
        super().__init__()
        self.divisor = (32,) * dims
        self.encoder = make_resnet(backbone, dims, in_channels)
        self.taken = [tapped(len(stage), level) for level, stage in enumerate(self.encoder.stages)]  # type: ignore[arg-type]
        widths = self.encoder.channels
        self.adapt = nn.Sequential(plain_conv(dims, widths[3], channels, 1), nn.ReLU(inplace=True))
        self.contrasts = nn.ModuleList(ContextContrast(dims, channels) for _ in range(contrasts))
        sources = [[channels] * contrasts + [widths[3]] * len(self.taken[3])]
        sources += [[widths[level]] * len(self.taken[level]) for level in (2, 1)]
        self.sums = nn.ModuleList(
            GatedSum(dims, group, channels, classes, before=i > 0) for i, group in enumerate(sources)
        )
        self.step = plain_conv(dims, 2, 1, 1)
        with torch.no_grad():  # the authors' start: a state counts against the next gate
            self.step.weight.copy_(torch.tensor([-0.12, 0.24]).view(1, 2, *(1,) * dims))  # type: ignore[union-attr,operator]

    def units(self, x: Tensor) -> list[list[Tensor]]:
        """Outputs of the tapped residual units of each stage, deepest first."""
        x = self.encoder.pool(self.encoder.half(x))
        found: list[list[Tensor]] = []
        for stage, taken in zip(self.encoder.stages, self.taken, strict=True):
            found.append([])
            for i, unit in enumerate(stage):  # type: ignore[arg-type]
                x = unit(x)
                if i in taken:
                    found[-1].insert(0, x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        stages = self.units(x)
        feature, contrasted = self.adapt(stages[3][0]), []
        for block in self.contrasts:
            feature = block(feature)
            contrasted.insert(0, feature)
        scores, state = self.sums[0]([*contrasted, *stages[3]], self.step, None)
        for gated, features, gain in zip(self.sums[1:], (stages[2], stages[1]), (1.6, 2.0), strict=True):
            size = features[0].shape[2:]
            scores, state = gated(
                features, self.step, (nd.resize(scores, size), gain * nd.resize(state, size))
            )
        return nd.resize(scores, x.shape[2:])


def tapped(units: int, level: int) -> tuple[int, ...]:
    """Which units of a stage give scores: all, but in a long third one (conv4) every second or third and both ends."""
    if level == 0:
        return ()
    step = 1 if level != 2 or units <= 6 else 2 if units <= 23 else 3
    return tuple(sorted({0, *range(step, units - 1, step), units - 1}))
