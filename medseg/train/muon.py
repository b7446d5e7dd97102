"""Muon: momentum whose matrices are made orthogonal, for kernels, beside AdamW for everything else.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon: a kernel's averaged gradient U S V^T is replaced by about
U V^T, so that all its directions are learned at one pace, where the gradient's few strong ones hide the weak. Its
updates are brought to the size of AdamW's as Liu et al. 2025, arXiv:2502.16982, equation 4, so that one rate and one
weight decay serve both. torch has a Muon of its own since 2.9, for matrices alone: no convolutions, and no AdamW beside.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

# The quintic a x + b x^3 + c x^5, five times, brings singular values of 0.002 to 1 near 1 (Jordan's coefficients).
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
# AdamW changes a weight by about this share of its rate (Liu et al., section 2.2).
ADAMW_SIZE = 0.2
# A kernel with fewer outputs or inputs than this, as the head's of a few classes, is no change of basis.
NARROW = 8


def is_kernel(layer: nn.Module) -> bool:
    """Whether a layer's weight is one matrix from all its inputs to all its outputs: a convolution (also transposed)
    without groups, or a linear layer, that is not narrow."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.ndim < 2 or getattr(layer, "groups", 1) > 1:
        return False
    mixes = isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    return mixes and min(weight.shape[0], weight[0].numel()) >= NARROW


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """About U V^T of each matrix U S V^T, in its own shape, with singular values of roughly 0.7 to 1.2.

    The rounds are done on the small Gram matrices, with which they commute: two large products instead of 15. Matrices
    whose smaller sides are equal share their rounds, since calls cost more than the arithmetic of small ones.
    """
    wide = [matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T for matrix in matrices]
    alike: dict[int, list[int]] = defaultdict(list)
    for index, matrix in enumerate(wide):
        alike[len(matrix)].append(index)
    for indices in alike.values():
        rounds = _rounds(torch.stack([wide[index] @ wide[index].T for index in indices]))
        for index, product in zip(indices, rounds, strict=True):
            wide[index] = product @ wide[index]
    return [
        made if made.shape == matrix.shape else made.T for made, matrix in zip(wide, matrices, strict=True)
    ]


def _rounds(gram: Tensor) -> Tensor:
    """What the rounds multiply matrices by: their Gram matrices (N, rows, rows) -> (N, rows, rows)."""
    a, b, c = QUINTIC
    squares = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp(min=1e-24)  # of the matrices' norms
    gram = gram / squares
    product = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device) / squares.sqrt()
    for _ in range(ROUNDS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor @ product
        gram = factor @ gram @ factor
    return product


class Muon(torch.optim.Optimizer):
    """Muon over the kernels of a network, AdamW (betas 0.9 and 0.999) over its other weights.

    lr: the rate of both. momentum: of the kernels' gradients (Nesterov). weight_decay: decoupled.
    """

    def __init__(self, net: nn.Module, lr: float, weight_decay: float, momentum: float) -> None:
        kernels = {id(layer.weight): layer.weight for layer in net.modules() if is_kernel(layer)}
        learning = [weight for weight in net.parameters() if weight.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [weight for weight in learning if id(weight) in kernels], "kernels": True},
            {"params": [weight for weight in learning if id(weight) not in kernels], "kernels": False},
        ]
        # fused: a restored state's counts of steps are put where the weights are, on a GPU too.
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "fused": True}
        super().__init__([group for group in groups if group["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of all weights that have a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                (self._kernels if group["kernels"] else self._others)(group, weights)
        return loss

    def _kernels(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        gradients = [weight.grad for weight in weights]
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        averages = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, averages, group["momentum"])
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        for weight, update in zip(weights, orthogonal([update.flatten(1) for update in ahead]), strict=True):
            size = ADAMW_SIZE * max(update.shape) ** 0.5
            weight.add_(update.reshape(weight.shape), alpha=-group["lr"] * size)

    def _others(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {
                    "step": torch.zeros((), device=weight.device),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }
        kept = {name: [self.state[w][name] for w in weights] for name in ("exp_avg", "exp_avg_sq", "step")}
        adamw(
            weights,
            [weight.grad for weight in weights],
            kept["exp_avg"],
            kept["exp_avg_sq"],
            [],
            kept["step"],
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
            fused=group["fused"],
        )
