"""A network for flat images that is given volumes: one slice after the other, across one axis."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from medseg.core.errors import UserError


def sliced(net: nn.Module, axis: int, name: str) -> Sliced:
    """The network in its frame. Raises UserError for one that has a loss, a step or borders of its own for images."""
    own = [word for word in ("loss", "training_step", "margin") if getattr(net, word, None)]
    if own:
        raise UserError(
            f"{name} has a {own[0].replace('_', ' ')} of its own, which is for images and not for slices of volumes",
            "system.configuration",
            "leave configuration: 2d out, or choose another network",
        )
    return Sliced(net, axis)


class Sliced(nn.Module):
    """Windows (B, C, *S) with three axes -> the logits of a 2D network for each of their slices, put together again.

    net: takes (B, C, rows, columns). axis: of *S (0-based), across which the slices lie; windows of one slice cost
    nothing beside the network. `Outputs` keep their auxiliary logits, whose slices are as many as those of the window.
    """

    def __init__(self, net: nn.Module, axis: int) -> None:
        super().__init__()
        self.net, self.axis = net, axis

    @property
    def divisor(self) -> list[int]:
        """The size steps of the network inside; any number of slices."""
        inside = getattr(self.net, "divisor", 1)
        steps = [inside, inside] if isinstance(inside, int) else list(inside)
        return [*steps[: self.axis], 1, *steps[self.axis :]]

    def forward(self, windows: Tensor) -> Any:
        from medseg.zoo.outputs import Outputs

        slices = windows.movedim(self.axis + 2, 1)  # (B, N, C, *s)
        batch = slices.shape[0]
        found = self.net(slices.flatten(0, 1))
        if isinstance(found, Tensor):
            return self._stacked(found, batch)
        heads = tuple(self._stacked(head, batch) for head in found.auxiliary)
        return Outputs(self._stacked(found.main, batch), heads, found.auxiliary_weights)

    def _stacked(self, logits: Tensor, batch: int) -> Tensor:
        return logits.reshape(batch, -1, *logits.shape[1:]).movedim(1, self.axis + 2)
