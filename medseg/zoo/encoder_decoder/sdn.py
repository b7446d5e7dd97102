"""SDN, stacked deconvolutional network. Fu, Liu, Wang, Zhou, Wang, Lu, IEEE TIP 2019, arXiv:1708.04943,
doi:10.1109/TIP.2019.2895460.

Several shallow encoder-decoders stand one after the other, so that context is gathered and places are recovered more
than once. The first encoder is a DenseNet; each further unit goes down and up twice with densely connected layers.
Skips join the units (each decoder to the next encoder, the first encoder to every decoder), scores of one unit are
added to those of the next, and every resolution of every unit is supervised.
Differs from the paper: volumes use 3D layers; the DenseNet's last block is dilated where its third transition kept
the resolution, so that all units work between a quarter and a sixteenth of the image.
Not confirmed (the paper itself could not be read; a review of it confirms DenseNet-161, three units, a 16th of the
image and 3x3 compressions): from a public re-implementation two layers of 48 channels a block, compressions to 768 and
1024 down and 768 and 576 up, links of 48 channels, dropout 0.2; equal weights of all losses.
Oracle: none installed, and no parameter count is published.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.densenet import BLOCKS, DenseNet, PreConv
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.outputs import Outputs

LAYERS = 2
DROPOUT = 0.2


class DenseStep(nn.Module):
    """Layers of `growth` channels that see all before them, then a 3x3 compression to `outputs`."""

    def __init__(self, dims: int, inputs: int, growth: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(PreConv(dims, inputs + i * growth, growth, 3), nn.Dropout(DROPOUT))
            for i in range(LAYERS)
        )
        self.compress = PreConv(dims, inputs + LAYERS * growth, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return self.compress(x)


class Down(nn.Module):
    """A unit's encoder: twice a max pooling, the decoder feature of the unit before, a dense step."""

    def __init__(
        self, dims: int, inputs: int, links: Sequence[int], growth: int, outputs: Sequence[int]
    ) -> None:
        super().__init__()
        self.pool = nd.MAX_POOL[dims](2)
        self.steps = nn.ModuleList(
            DenseStep(dims, i + link, growth, o)
            for i, link, o in zip((inputs, outputs[0]), links, outputs, strict=True)
        )

    def forward(self, x: Tensor, links: Sequence[Tensor]) -> Tensor:
        for step, link in zip(self.steps, links, strict=True):
            x = step(torch.cat([self.pool(x), link], dim=1))
        return x


class Up(nn.Module):
    """A unit's decoder: twice a transposed convolution, a link from the first encoder, a dense step.

    forward: features at a 16th, links at an 8th and a quarter -> its features, coarsest (its input) first.
    """

    def __init__(self, dims: int, inputs: int, link: int, growth: int, outputs: Sequence[int]) -> None:
        super().__init__()
        wide = (inputs, *outputs[:-1])
        self.up = nn.ModuleList(nd.CONV_TRANSPOSE[dims](w, w, 2, 2) for w in wide)
        self.steps = nn.ModuleList(
            DenseStep(dims, w + link, growth, o) for w, o in zip(wide, outputs, strict=True)
        )
        self.channels = (inputs, *outputs)

    def forward(self, x: Tensor, links: Sequence[Tensor]) -> list[Tensor]:
        features = [x]
        for up, step, link in zip(self.up, self.steps, links, strict=True):
            features.append(step(torch.cat([up(features[-1]), link], dim=1)))
        return features


class SDN(nn.Module):
    """SDN on (B, in_channels, *S) -> logits (B, classes, *S).

    backbone: a DenseNet, the first encoder; its growth is that of all units. units: decoders in the stack.
    down: channels of further encoders at an 8th and a 16th. up: of the decoders at an 8th and a quarter.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        backbone: str = "densenet161",
        units: int = 3,
        down: Sequence[int] = (768, 1024),
        up: Sequence[int] = (768, 576),
    ) -> None:
        super().__init__()
        if units < 1:
            raise ValueError(f"units is {units}; it is at least 1")
        self.divisor = (16,) * dims
        self.encoder = DenseNet(dims, in_channels, backbone, 16)
        growth = BLOCKS[backbone][2]
        fine, middle, _, deep = self.encoder.channels
        self.links = nn.ModuleList(PreConv(dims, c, growth, 3) for c in (middle, fine))
        self.down, self.up, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for unit in range(units):
            if unit:
                self.down.append(Down(dims, up[1], (up[0], deep), growth, down))
                deep = down[1]
            self.up.append(Up(dims, deep, growth, growth, up))
            self.heads.append(nn.ModuleList(plain_conv(dims, c, classes, 3) for c in (deep, *up)))

    def forward(self, x: Tensor) -> Tensor | Outputs:
        size = x.shape[2:]
        fine, middle, _, deep = self.encoder(x)
        links = [link(f) for link, f in zip(self.links, (middle, fine), strict=True)]
        supervised: list[Tensor] = []
        scores: list[Tensor] = []
        features: list[Tensor] = []
        for unit, (up, heads) in enumerate(zip(self.up, self.heads, strict=True)):
            if unit:
                deep = self.down[unit - 1](features[2], (features[1], features[0]))
            features = up(deep, links)
            own = [head(f) for head, f in zip(heads, features, strict=True)]
            scores = [s + o for s, o in zip(scores, own, strict=True)] if scores else own
            supervised += scores
        logits = nd.resize(supervised.pop(), size)
        if not self.training:
            return logits
        others = tuple(nd.resize(s, size) for s in reversed(supervised))
        return Outputs(logits, others, (1.0,) * len(others))
