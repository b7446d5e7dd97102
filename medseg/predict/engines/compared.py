"""One network whose answers to a window are compared with each other: of mirrored copies, or of passes with dropout.

Dropout that stays on while a network predicts draws from an approximate posterior over its weights (Gal & Ghahramani
2016, arXiv:1506.02142, section 4). The mask is that of the network as it is; the passes are only compared with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from medseg.core.errors import UserError
from medseg.predict.engines.eager import Eager
from medseg.predict.mirrors import mirrors_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medseg.config import Predict
    from medseg.model.folder import Model
    from medseg.predict.confidence import Disagreement

PASSES = 8
"""Passes of a window with dropout on."""

SEED = 20160604
"""Of the first pass of every window: the same image gives the same figures, wherever a prediction was stopped."""

KEY = "predict.disagreement"


class Compared(Eager):
    """As `Eager`, and tells `watch` how far the answers differ: those of its mirrored copies, or of passes with dropout."""

    def __init__(self, net: nn.Module, *, compare: Literal["mirrors", "dropout"], **settings: Any) -> None:
        super().__init__(net, **settings)
        self.compare = compare
        self.watch: Disagreement | None = None

    def __call__(self, windows: Tensor) -> Tensor:
        watch = self.watch
        if watch is None:
            return super().__call__(windows)
        windows = windows.to(self.device)
        # Labels alone are kept of each answer: the logits of all would not fit the memory that was announced.
        answers: list[list[Any]] = []

        def look(answer: Tensor) -> None:
            answers.append([watch.labels(one, self.put_off) for one in answer])

        mean = self._mean(windows, look if self.compare == "mirrors" else None)
        if self.compare == "dropout":
            self._drop_out(windows, look)
        for number, one in enumerate(mean):
            watch.take([answer[number] for answer in answers], watch.labels(one, self.put_off))
        return mean

    def _drop_out(self, windows: Tensor, look: Any) -> None:
        import torch

        gpus = [windows.device] if windows.is_cuda else []
        with torch.inference_mode(), torch.random.fork_rng(gpus), dropout_on(self.net):
            for number in range(PASSES):
                torch.manual_seed(SEED + number)
                look(self._fitted(windows))


def dropout_layers(net: nn.Module) -> list[nn.Module]:
    """The layers that leave values out while a network is trained."""
    from torch.nn.modules.dropout import _DropoutNd

    return [layer for layer in net.modules() if isinstance(layer, _DropoutNd) and layer.p > 0]


@contextmanager
def dropout_on(net: nn.Module) -> Iterator[None]:
    """Dropout as in training inside the block; all other layers, norms above all, stay as they are."""
    layers = dropout_layers(net)
    before = [layer.training for layer in layers]
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer, training in zip(layers, before):
            layer.training = training


def require_answers(model: Model, settings: Predict) -> None:
    """Raises UserError where a model has nothing of the kind that `predict.disagreement` names."""
    kind = settings.disagreement
    if kind == "auto":
        return
    where, net = f"{KEY}: {kind}", model.net
    if net is None:
        raise UserError("a classical method gives one answer", where, f"leave out {KEY}")
    if model.parts or hasattr(net, "members"):
        raise UserError("of an ensemble the members are compared", where, f"leave out {KEY}")
    if kind == "mirrors" and len(mirrors_of(settings, model.plan).copies) == 1:
        hint = (
            "add predict.flips: true; a model that was trained without train.flips knows no mirrored images"
        )
        raise UserError("no mirrored copies are predicted with this model", where, hint)
    if kind == "dropout" and not dropout_layers(net):
        hint = "take mirrors, or an ensemble of several folds"
        raise UserError("this network has no layer of dropout", where, hint)
    if kind == "dropout" and settings.engine not in ("auto", "torch"):
        raise UserError(f"{settings.engine} computes without dropout", where, "take predict.engine: torch")
