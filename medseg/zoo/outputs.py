"""What a network returns when it has more to say than its logits."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Outputs(NamedTuple):
    """Logits, further logits that are only trained on, and whatever else a system's own loss reads.

    main: (B, K, *S). auxiliary: logits (B, K, *s), finest first, perhaps coarser than main.
    auxiliary_weights: factor of each auxiliary loss beside the main loss, which counts 1.
    extras: named tensors for `loss(outputs, target)` of systems that bring their own.
    Networks return this in training mode only; in eval mode they return the logits alone.
    """

    main: Tensor
    auxiliary: tuple[Tensor, ...] = ()
    auxiliary_weights: tuple[float, ...] = ()
    extras: Mapping[str, Any] = NOTHING


def main_of(outputs: Tensor | Outputs) -> Tensor:
    """The logits of either form."""
    return outputs if isinstance(outputs, Tensor) else outputs.main
