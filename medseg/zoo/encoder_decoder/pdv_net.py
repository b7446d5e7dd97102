"""PDV-Net, progressive dense V-network. Imran, Hatamizadeh, Ananth, Ding, Terzopoulos, Tajbakhsh, DLMIA 2018;
extended in arXiv:1902.06362.

Lung lobes need the whole chest and sharp fissures at once. Three dense feature blocks read the volume at a half, a
quarter and an eighth of its size; the coarsest gives a segmentation, which is upsampled and refined by the features
of the next size, and again. A Dice loss on each of these outputs keeps all sizes learning
(`loss: {name: dice}`).
Differs from the paper: the image at half its size does not enter the first block beside the 24 features of the 5x5x5
convolution; ReLU instead of PReLU; the last output is interpolated to the image's size; planes use 2D layers.
Not confirmed (the paper itself could not be read; the blocks are those of the dense V-network it extends,
doi:10.1109/TMI.2018.2806309, in its authors' code: 5, 10, 10 layers of 4, 8, 16 channels, 24 channels into each
block, 12, 24, 24 out of it; a report on the paper has 4, 6, 8 channels a layer): joining the coarser output to the
finer features by concatenation, and equal weights of the outputs.
Oracle: none installed, and no parameter count is published.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import ConvNormAct, plain_conv
from medseg.zoo.layers.initial import kaiming
from medseg.zoo.outputs import Outputs


class DenseStack(nn.Module):
    """Dense feature stack: 3x3x3 layers that see the input and all layers before; returns all side by side."""

    def __init__(self, dims: int, inputs: int, layers: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConvNormAct(dims, inputs + i * growth, growth, 3) for i in range(layers))
        self.channels = inputs + layers * growth

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class PDVNet(nn.Module):
    """PDV-Net on (B, in_channels, *S) -> logits (B, classes, *S).

    layers, growth: of the dense stacks, finest first. width: channels into each stack. skips: channels out of each.
    In training mode the outputs at a quarter and an eighth of the image come too.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        layers: Sequence[int] = (5, 10, 10),
        growth: Sequence[int] = (4, 8, 16),
        width: int = 24,
        skips: Sequence[int] = (12, 24, 24),
    ) -> None:
        super().__init__()
        self.divisor = (2 ** len(layers),) * dims
        self.down, self.stacks, self.skips = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        inputs = in_channels
        for level, (count, wide, skip) in enumerate(zip(layers, growth, skips, strict=True)):
            self.down.append(ConvNormAct(dims, inputs, width, 3 if level else 5, stride=2))
            self.stacks.append(DenseStack(dims, width, count, wide))
            inputs = self.stacks[-1].channels
            self.skips.append(ConvNormAct(dims, inputs, skip, 3))
        last = len(skips) - 1
        self.outputs = nn.ModuleList(
            plain_conv(dims, skip + (classes if level < last else 0), classes, 3)
            for level, skip in enumerate(skips)
        )
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        skips = []
        for down, stack, skip in zip(self.down, self.stacks, self.skips, strict=True):
            x = stack(down(x))
            skips.append(skip(x))
        found: list[Tensor] = []
        for skip, output in zip(reversed(skips), reversed(self.outputs), strict=True):
            before = [nd.resize(found[0], skip.shape[2:])] if found else []
            found.insert(0, output(torch.cat([skip, *before], dim=1)))
        main = nd.resize(found[0], size)
        return Outputs(main, tuple(found[1:]), (1.0,) * len(found[1:])) if self.training else main
