"""The reference engine: the network as PyTorch runs it, in a chosen number type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from medseg.predict.engines.small_volumes import small_volumes
from medseg.predict.head import put_off
from medseg.predict.mirrors import NO_MIRRORS, Mirrors

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Eager:
    """Windows (B, C, *S) float32 on any device -> logits (B, K, *S) on the network's device.

    A network whose last layer was put off (`head.without_last_layer`) answers with features, and `put_off` holds that
    layer.

    The logits have the number type that they were computed in; averages over mirrored copies are float32.

    net: a network in eval mode. autocast: number type of its convolutions, None for float32. mirrors: mirrored copies
    that are averaged, as logits.
    divisor: sizes the network takes are multiples of it (one number, or one an axis); the padding is zero, below and
    above, and is cut off again. forward: what computes in the network's place, a converted form of it.
    blend_on: the device that adds up the logits of overlapping windows.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        autocast: torch.dtype | None = None,
        mirrors: Mirrors = NO_MIRRORS,
        divisor: int | Sequence[int] | None = None,
        forward: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.net, self.autocast, self.forward = net, autocast, forward
        self.put_off = put_off(net)
        self.divisor = getattr(net, "divisor", 1) if divisor is None else divisor
        self.mirrors = mirrors
        parameter = next(chain(net.parameters(), net.buffers()), None)
        self.device = "cpu" if parameter is None else str(parameter.device)
        self.blend_on = self.device

    def __call__(self, windows: Tensor) -> Tensor:
        return self._mean(windows.to(self.device))

    def _mean(self, windows: Tensor, look: Callable[[Tensor], None] | None = None) -> Tensor:
        """The mean over the mirrored copies of windows on the network's device. look: is shown each copy's answer."""
        import torch

        with torch.inference_mode():
            total = self._fitted(windows)
            if look is not None:
                look(total)
            copies = self.mirrors.copies
            if len(copies) == 1:
                return total
            total = total.float()
            for number, axes in enumerate(copies[1:]):
                mirrored = self.mirrors.back(self._fitted(windows.flip([axis + 2 for axis in axes])), axes)
                if look is not None:
                    look(mirrored)
                # The first answer may be an engine's own; the sum is ours, and is added to in its place.
                total = total.add_(mirrored) if number else total + mirrored
                del mirrored
            return total.div_(len(copies))

    def _fitted(self, windows: Tensor) -> Tensor:
        """Pads to sizes that the network takes, and cuts its logits to the windows again."""
        from torch.nn.functional import pad

        sizes = tuple(windows.shape[2:])
        if getattr(self.net, "margin", 0):
            return self._unpadded(windows)
        multiples = [self.divisor] * len(sizes) if isinstance(self.divisor, int) else self.divisor
        missing = [-n % m for n, m in zip(sizes, multiples)]
        if not any(missing):
            return self._forward(windows)
        below = [m // 2 for m in missing]
        room = [n for m, b in zip(reversed(missing), reversed(below)) for n in (b, m - b)]
        logits = self._forward(pad(windows, room))
        return logits[(..., *(slice(b, b + n) for b, n in zip(below, sizes)))]

    def _unpadded(self, windows: Tensor) -> Tensor:
        """Networks of unpadded convolutions get the border that they lose, mirrored, as their paper does it."""
        from medseg.zoo.layers.nd import mirror_pad

        sizes = tuple(windows.shape[2:])
        logits = self._forward(mirror_pad(windows, [self.net.border(n) for n in sizes]))
        return logits[(..., *(slice(0, n) for n in sizes))]

    def _forward(self, windows: Tensor) -> Tensor:
        import torch

        from medseg.zoo.outputs import main_of

        if self.forward is not None:
            return self.forward(windows)
        autocast = torch.autocast(windows.device.type, dtype=self.autocast, enabled=self.autocast is not None)
        with autocast, small_volumes():
            return main_of(self.net(windows))
