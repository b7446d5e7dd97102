"""Backbones by name. `*-tiny` are for tests, `*-small` for a few CPU cores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg.core.errors import did_you_mean
from medseg.zoo.encoders.efficientnet import SCALES, make_efficientnet
from medseg.zoo.encoders.mobilenet import MOBILENETS, make_mobilenet
from medseg.zoo.encoders.resnet import Residual, ResNet

OUTSIDE = ("hf:", "timm:")
"""What names of backbones of other libraries begin with."""

RESNETS = {
    "resnet18": Residual((2, 2, 2, 2), bottleneck=False),
    "resnet34": Residual((3, 4, 6, 3), bottleneck=False),
    "resnet50": Residual((3, 4, 6, 3)),
    "resnet101": Residual((3, 4, 23, 3)),
    "resnet152": Residual((3, 8, 36, 3)),
    "resnext101": Residual((3, 4, 23, 3), groups=32, widen=2),
    "resnext101-32x8d": Residual((3, 4, 23, 3), groups=32, widen=4),
    "resnet-small": Residual((2, 2, 2, 2), bottleneck=False, width=16),
    "resnext-small": Residual((1, 1, 2, 1), width=16, groups=8, widen=2),
    "resnet-tiny": Residual((1, 1, 1, 1), bottleneck=False, width=4),
    "resnet-tiny-bottleneck": Residual((1, 1, 2, 2), width=4),
    "resnext-tiny": Residual((1, 1, 1, 1), width=4, groups=4, widen=2),
}


def make_resnet(name: str, dims: int, in_channels: int, output_stride: int = 32, **changes: object) -> Any:
    """A backbone by its name: a ResNet of the table, or what stands in for one.

    That is an EfficientNet, a MobileNet, or a 2D backbone of another library (`hf:NAME`, `timm:NAME`); all return four
    features, finest first, and declare `channels`, `strides` and `half_channels`. `NAME@FILE` starts from the weights
    of a local safetensors file. changes are fields of `Residual` (deep_stem, multi_grid, cycles): they shape ResNets;
    the others have no such parts and take the output stride alone. Raises ValueError for an unknown name.
    """
    name, _, file = name.partition("@")
    net = _made(name, dims, in_channels, output_stride, changes)
    if file:
        from medseg.zoo.encoders.pretrained import load_weights

        load_weights(net, Path(file))
    return net


def _made(name: str, dims: int, in_channels: int, output_stride: int, changes: dict[str, object]) -> Any:
    if name in RESNETS:
        return ResNet(dims, in_channels, replace(RESNETS[name], **changes), output_stride)  # type: ignore[arg-type]
    if name in SCALES:
        return make_efficientnet(name, dims, in_channels, output_stride)
    if name in MOBILENETS:
        return make_mobilenet(name, dims, in_channels, output_stride)
    if name.startswith(OUTSIDE):
        from medseg.zoo.encoders.outside import make_outside

        return make_outside(name, dims, in_channels, output_stride)
    known = [*RESNETS, *SCALES, *MOBILENETS]
    raise ValueError(
        f"no backbone {name!r}{did_you_mean(name, known)} there are {', '.join(known)}, hf:NAME and timm:NAME"
    )
