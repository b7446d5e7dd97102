"""Backbones by name. `*-tiny` are for tests, `*-small` for a few CPU cores."""

from __future__ import annotations

from dataclasses import replace

from medseg.core.errors import did_you_mean
from medseg.zoo.encoders.resnet import Residual, ResNet

RESNETS = {
    "resnet18": Residual((2, 2, 2, 2), bottleneck=False),
    "resnet34": Residual((3, 4, 6, 3), bottleneck=False),
    "resnet50": Residual((3, 4, 6, 3)),
    "resnet101": Residual((3, 4, 23, 3)),
    "resnet152": Residual((3, 8, 36, 3)),
    "resnet-small": Residual((2, 2, 2, 2), bottleneck=False, width=16),
    "resnet-tiny": Residual((1, 1, 1, 1), bottleneck=False, width=4),
    "resnet-tiny-bottleneck": Residual((1, 1, 2, 2), width=4),
}


def make_resnet(name: str, dims: int, in_channels: int, output_stride: int = 32, **changes: object) -> ResNet:
    """A ResNet of the table; changes are fields of `Residual` (deep_stem, multi_grid, cycles)."""
    if name not in RESNETS:
        raise ValueError(f"no backbone {name!r}{did_you_mean(name, RESNETS)} there are {', '.join(RESNETS)}")
    return ResNet(dims, in_channels, replace(RESNETS[name], **changes), output_stride)  # type: ignore[arg-type]
