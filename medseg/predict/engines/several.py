"""Several networks as one: the mean of their logits, window by window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from medseg.predict.engines.compared import Compared
from medseg.predict.engines.eager import Eager

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medseg.predict.confidence import Disagreement


class Several:
    """Windows (B, C, *S) -> mean of the members' logits (B, K, *S), float32.

    Blending windows is linear, so the mean of a window's logits gives the mean of the whole case's logits: the case
    is prepared and blended once, and memory does not grow with the number of members. Every member runs in an engine
    of its own, which gives it the padding that it needs. watch: what is told how far the members differ, if anything.
    """

    def __init__(self, runs: Sequence[Eager]) -> None:
        self.runs = list(runs)
        self.watch: Disagreement | None = None

    @property
    def device(self) -> str:
        return self.runs[0].device

    @property
    def blend_on(self) -> str:
        """The device that adds up the logits of overlapping windows."""
        return self.runs[0].blend_on

    @blend_on.setter
    def blend_on(self, device: str) -> None:
        for run in self.runs:
            run.blend_on = device

    def __call__(self, windows: Tensor) -> Tensor:
        total, labels = None, []
        for number, run in enumerate(self.runs):
            answer = run(windows)
            if total is None:
                total = answer.float()
            else:
                # The first answer may be an engine's own; the sum is ours, and is added to in its place.
                total = total.add_(answer) if number > 1 else total + answer
            if self.watch is not None:
                # Labels alone are kept of each member: the logits of all would not fit the memory that was announced.
                labels.append([self.watch.labels(one) for one in answer])
        assert total is not None
        mean: Tensor = total.div_(len(self.runs)) if len(self.runs) > 1 else total
        if self.watch is not None:
            for number, one in enumerate(mean):
                self.watch.take([member[number] for member in labels], self.watch.labels(one))
        return mean


def engine_of(
    net: nn.Module,
    *,
    forwards: Sequence[Callable[[Tensor], Tensor]] | None = None,
    compare: str = "auto",
    **settings: Any,
) -> Eager | Several:
    """The engine of a network: one, or one a member of an ensemble.

    forwards: what computes in the place of each member. compare: as `predict.disagreement`. settings: see `Eager`.
    """
    nets = members_of(net)
    if compare != "auto":
        return Compared(net, compare=compare, forward=forwards and forwards[0], **settings)
    runs = [
        Eager(member, forward=None if forwards is None else forwards[number], **settings)
        for number, member in enumerate(nets)
    ]
    return Several(runs) if hasattr(net, "members") else runs[0]


def members_of(net: nn.Module) -> list[nn.Module]:
    """The networks of an ensemble, or the one network."""
    return list(getattr(net, "members", (net,)))
