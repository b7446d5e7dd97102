"""The network of an ensemble: its members, and the mean of their logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


class Members(nn.Module):
    """Networks that share classes, windows and grid.

    forward: windows (B, C, *S) of a size that every member takes -> mean of their logits (B, K, *S), float32, one
    member after the other, so that only one member's activations exist at a time.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(nets)

    @property
    def divisor(self) -> int | list[int]:
        """The least size step that fits all members."""
        wishes = [getattr(net, "divisor", 1) for net in self.members]
        lists = [wish for wish in wishes if not isinstance(wish, int)]
        if not lists:
            return math.lcm(*wishes)
        axes = len(lists[0])
        return [math.lcm(*(w if isinstance(w, int) else w[a] for w in wishes)) for a in range(axes)]

    def forward(self, windows: Tensor) -> Tensor:
        from medseg.zoo.outputs import main_of

        total: Tensor | None = None
        for net in self.members:
            logits = main_of(net(windows)).float()
            total = logits if total is None else total + logits
        assert total is not None
        return total / len(self.members)
