"""A network that was trained on axes running the other way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


def in_frame(facts: Mapping[str, Any], net: nn.Module) -> nn.Module:
    """The network of a model.json with the axes turned on which it was trained the other way (imported models)."""
    turned = facts.get("frame", {}).get("turned", [])
    return Turned(net, [int(axis) for axis in turned]) if turned else net


def axes_of(net: nn.Module | None) -> tuple[int, ...]:
    """Axes along which a network, or all of an ensemble's that have any, was trained the other way."""
    found = set() if net is None else {part.axes for part in net.modules() if isinstance(part, Turned)}
    return found.pop() if len(found) == 1 else ()


class Turned(nn.Module):
    """Windows (B, C, *S) are mirrored along `axes` (0-based, of *S), given to the network, and its logits mirrored back.

    It is not the same as mirrored kernels: a strided convolution begins counting at the first voxel.
    """

    def __init__(self, net: nn.Module, axes: Sequence[int]) -> None:
        super().__init__()
        self.net = net
        self.axes = tuple(axes)
        self.where = [axis + 2 for axis in axes]

    @property
    def divisor(self) -> int | Sequence[int]:
        """The size step of the network inside."""
        return getattr(self.net, "divisor", 1)

    def forward(self, windows: Tensor) -> Any:
        from medseg.zoo.outputs import main_of

        return main_of(self.net(windows.flip(self.where))).flip(self.where)
