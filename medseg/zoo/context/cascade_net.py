"""Cascade segmentation module. Zhou, Zhao, Puig, Fidler, Barriuso, Torralba, CVPR 2017, arXiv:1608.05442.

A few large classes (wall, sky, background) drown the many small ones. So one stream tells the large ones ("stuff")
from "some object", a second tells the objects from each other and learns inside objects only, and a third tells the
parts of an object and learns inside that object only; each is multiplied by the score map of the stream before it.
Here stuff is the background or a body, objects are organs, and parts are lesions.
Differs from the paper: a voxel has one label, which for a part implies its object, where the paper has a second label
map of parts. The streams' losses are those of the product of their probabilities, so each loss averages over the
image and not over its own area. The base is the DilatedNet form; the SegNet form is not built. Not confirmed: that
streams part after conv5. Volumes use 3D layers, in which fc6 is 3 voxels across and 1024 channels wide.
Oracle: none kept; layers as in the authors' DilatedNet; the loss of the product equals the streams' losses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.zoo.encoders.vgg import VGG, VGG16, WIDTHS
from medseg.zoo.layers import nd
from medseg.zoo.layers.conv import plain_conv
from medseg.zoo.layers.initial import kaiming


class Stream(nn.Sequential):
    """fc6 (dilation 4), fc7 and scores as convolutions, with ReLU and dropout 0.5."""

    def __init__(self, dims: int, inputs: int, hidden: int, kernel: int, outputs: int) -> None:
        super().__init__(
            plain_conv(dims, inputs, hidden, kernel, dilation=4),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            plain_conv(dims, hidden, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            plain_conv(dims, hidden, outputs, 1),
        )


class Partition:
    """Which of K classes are stuff, objects and parts. parts: pairs (part, its object)."""

    def __init__(
        self, classes: int, objects: Sequence[int] | None, parts: Sequence[Sequence[int]] | None
    ) -> None:
        self.parts: dict[int, list[int]] = {}
        for part, whole in parts or ():
            self.parts.setdefault(int(whole), []).append(int(part))
        inner = [part for found in self.parts.values() for part in found]
        self.objects = [
            k for k in (range(1, classes) if objects is None else map(int, objects)) if k not in inner
        ]
        self.stuff = [k for k in range(classes) if k not in self.objects and k not in inner]
        self._require(classes, inner)

    def _require(self, classes: int, inner: list[int]) -> None:
        named = [*self.objects, *inner]
        if any(not 0 <= k < classes for k in named) or len(set(named)) < len(named):
            raise ValueError(f"objects and parts are {named}; each is one of 0 to {classes - 1}, named once")
        if not self.stuff or not self.objects:
            raise ValueError(
                f"of {classes} classes {self.stuff} are stuff and {self.objects} objects; each has one"
            )
        for whole in self.parts:
            if whole not in self.objects:
                raise ValueError(f"class {whole} has parts but is no object")


class CascadeNet(nn.Module):
    """Cascade-DilatedNet on (B, in_channels, *S) -> logarithms of probabilities (B, classes, *S), exclusive classes.

    objects: positions of the classes in the object stream (None: all but the first and the parts). parts: pairs
    (part, its object), such as [[2, 1]] for a tumour 2 of an organ 1. hidden, fc_kernel: of the layers that stand for
    fully connected ones (None: 4096 and 7; in volumes 1024 and 3).
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = WIDTHS,
        hidden: int | None = None,
        fc_kernel: int | None = None,
        objects: Sequence[int] | None = None,
        parts: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.divisor = (8,) * dims
        self.classes = classes
        self.partition = found = Partition(classes, objects, parts)
        self.encoder = VGG(dims, in_channels, widths, VGG16, output_stride=8, keep_pools=False)
        shape = (hidden or (4096 if dims == 2 else 1024), fc_kernel or (7 if dims == 2 else 3))
        self.stuff = Stream(dims, widths[-1], *shape, len(found.stuff) + 1)
        self.objects = Stream(dims, widths[-1], *shape, len(found.objects))
        inner = sum(1 + len(group) for group in found.parts.values())
        self.parts = Stream(dims, widths[-1], *shape, inner) if inner else None
        kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)[-1]
        streams = [self.stuff, self.objects, *([] if self.parts is None else [self.parts])]
        return self.product([nd.resize(stream(features), x.shape[2:]) for stream in streams])

    def product(self, scores: Sequence[Tensor]) -> Tensor:
        """Scores of the streams -> log p(class) = log p(object) + log p(class | object) [+ log p(part | class)]."""
        found = self.partition
        stuff, objects = (torch.log_softmax(s.float(), dim=1) for s in scores[:2])
        objects = objects + stuff[:, -1:]
        logs = dict(zip(found.stuff, stuff.unbind(dim=1), strict=False))
        logs.update(zip(found.objects, objects.unbind(dim=1), strict=True))
        start = 0
        for whole, group in found.parts.items():
            end = start + 1 + len(group)
            inside = torch.log_softmax(scores[2][:, start:end].float(), dim=1) + logs[whole][:, None]
            logs.update(zip((whole, *group), inside.unbind(dim=1), strict=True))
            start = end
        return torch.stack([logs[k] for k in range(self.classes)], dim=1)
