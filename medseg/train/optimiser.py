"""Optimisers by name, and the running average of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.config import Optimizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# nnU-Net's, and Jordan's of 2024.
MOMENTUM = {"sgd": 0.99, "muon": 0.95}


def build_optimiser(settings: Optimizer, net: nn.Module) -> torch.optim.Optimizer:
    """adamw (Loshchilov and Hutter 2019, arXiv:1711.05101), adam (Kingma and Ba 2015, arXiv:1412.6980), sgd with
    Nesterov momentum, or muon (its file), over all parameters that learn.

    Fused: one pass over each tensor instead of a dozen, which is most of what a narrow network spends here. It reads
    weights and state by their place in memory, so that a restored state has to lie as they do (`restore_checkpoint`).
    """
    import torch

    momentum = MOMENTUM.get(settings.name, 0.0) if settings.momentum is None else settings.momentum
    if settings.name == "muon":
        from medseg.train.muon import Muon

        return Muon(net, settings.rate, settings.weight_decay, momentum)
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    shared = {"lr": settings.rate, "weight_decay": settings.weight_decay, "fused": True}
    if settings.name == "sgd":
        return torch.optim.SGD(learning, momentum=momentum, nesterov=momentum > 0, **shared)
    return {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.name](learning, **shared)


class Statistics:
    """Running statistics of the norms (and what else a network counts while it computes), to be put back after a step
    that is left out: one infinite value in them would stay for ever, and spoil every prediction."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.kept: dict[str, Tensor] = {}

    def keep(self) -> None:
        """Remembers them as they are."""
        buffers = self.net.named_buffers()
        self.kept = {name: value.clone() for name, value in buffers if value.is_floating_point()}

    def put_back(self) -> None:
        """As they were when they were kept."""
        for name, value in self.net.named_buffers():
            if name in self.kept:
                value.copy_(self.kept[name])


class Average:
    """Exponential moving average of the weights: a <- d a + (1 - d) w after every step.

    d rises from 0.1 to `decay` over the first steps, min(decay, (1 + n) / (10 + n)), so that the random start is
    forgotten. Running statistics are averaged as well, counters are taken as they are.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in net.state_dict().items()
        }

    def update(self, net: nn.Module, step: int) -> None:
        import torch

        decay = min(self.decay, (1 + step) / (10 + step))
        kept, new = [], []
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                kept.append(self.weights[name])
                new.append(value.detach())
            else:
                self.weights[name].copy_(value)
        torch._foreach_lerp_(kept, new, 1 - decay)
