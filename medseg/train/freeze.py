"""Weights that stay as they are, by the names of their tensors."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Frozen:
    """The names of the frozen tensors, and the modules all of whose weights are frozen.

    Norms and dropout of the latter work as in prediction, so that running statistics stay as well.
    """

    names: tuple[str, ...]
    modules: tuple[nn.Module, ...]

    @classmethod
    def of(cls, net: nn.Module, patterns: Sequence[str]) -> Frozen:
        """Takes the gradients from all parameters whose name fits one of the patterns (`encoder.*`).

        Raises UserError for a pattern that fits nothing, with the nearest names, and when nothing is left to learn.
        """
        parameters = dict(net.named_parameters())
        chosen: set[str] = set()
        for pattern in patterns:
            fitting = fnmatch.filter(parameters, pattern)
            if not fitting:
                parts = dict.fromkeys(f"{name.rpartition('.')[0].partition('.')[0]}.*" for name in parameters)
                raise UserError(
                    f"no weight of this network is named like {pattern!r}{did_you_mean(pattern, parts)}",
                    "train.freeze",
                    f"its parts are {', '.join(list(parts)[:12])}",
                )
            chosen.update(fitting)
        if parameters and len(chosen) == len(parameters):
            raise UserError(
                f"all {len(parameters)} weights are frozen, so nothing is learnt",
                "train.freeze",
                "freeze fewer",
            )
        for name in chosen:
            parameters[name].requires_grad_(False)
        still = tuple(
            module
            for module in net.modules()
            if chosen
            and any(True for _ in module.parameters())
            and not any(p.requires_grad for p in module.parameters())
        )
        return cls(tuple(sorted(chosen)), still)

    def hold_still(self) -> None:
        """Puts the frozen modules into eval mode; the rest of the network trains."""
        for module in self.modules:
            module.train(False)
