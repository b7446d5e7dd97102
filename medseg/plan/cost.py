"""What a network costs a voxel, counted without running it, and what this machine does in a second."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

CPU_FLOPS_PER_CORE = 40e9
"""Nominal single-precision speed that patch sizes are chosen by, so that one file gives one plan on all CPUs."""

GPU_FLOPS = 10e12
BACKWARD = 3.0
"""Forward and backward together cost about three forwards."""

OTHER_WORK = 1.2
"""Norms, activations, augmentation and the optimiser beside the convolutions."""

EDGES = {2: 128, 3: 64}
"""Voxels along an axis of the patch by which a network is counted."""

PROCESS_BYTES = 350_000_000
"""What a process with torch holds before it has done anything."""


@dataclass(frozen=True)
class NetworkCost:
    """flops, saved_bytes: of a training forward, per voxel of the patch. parameters: number of weights.

    divisor: what patch edges must be multiples of.
    """

    flops: float
    saved_bytes: float
    parameters: int
    divisor: tuple[int, ...]

    def step_flops(self, voxels: float) -> float:
        """Operations of one training step over so many voxels (patch x batch)."""
        return self.flops * voxels * BACKWARD

    def step_bytes(self, voxels: float) -> int:
        """Memory of one training step: activations and their gradients, weights with two moments and a gradient.

        Five networks on a CPU took 0.75 to 1.1 times as much.
        """
        return int(self.saved_bytes * voxels * 2.0 + 16 * self.parameters + PROCESS_BYTES)


@lru_cache(maxsize=256)
def network_cost(
    name: str, size: str, arguments: str, dims: int, in_channels: int, out_channels: int
) -> NetworkCost:
    """Counts a network of the catalog; arguments: JSON. Remembered, since a search for a grid asks again and again.

    Nothing is computed where shapes alone decide what happens; a network that looks at values runs once on a small patch.
    """
    from medseg.zoo.build import build
    from medseg.zoo.effort import without_computing

    form = {"dims": dims, "in_channels": in_channels, "classes": out_channels, "size": size}

    def counted(device: str, edge: int = EDGES[dims]) -> NetworkCost:
        net = build(name, **form, **json.loads(arguments))
        return count_network(net, in_channels, dims, device, edge)

    try:
        return without_computing(counted)
    except (RuntimeError, NotImplementedError):
        return counted("cpu", edge=1)


def count_network(net: Any, in_channels: int, dims: int, device: str, edge: int) -> NetworkCost:
    """Counts a network on `device` by a patch of about `edge` voxels along each axis, at least two of its divisors."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    divisor = tuple(int(n) for n in net.divisor)
    least = getattr(net, "minimum", divisor)
    patch = tuple(-(-max(2 * d, m, edge) // d) * d for d, m in zip(divisor, least, strict=True))
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            saved[tensor.untyped_storage()._cdata] = tensor.numel() * tensor.element_size()
            held.append(tensor)  # a freed storage could lend its address to the next tensor
        return tensor

    held: list[torch.Tensor] = []
    image = torch.zeros(1, in_channels, *patch, device=device)
    net.train()
    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        net(image)
    voxels = float(np.prod(patch))
    return NetworkCost(
        counter.get_total_flops() / voxels,
        sum(saved.values()) / voxels,
        sum(p.numel() for p in net.parameters()),
        divisor,
    )


def measured_flops(device: str) -> float:
    """Operations a second of a middle-sized 3D convolution, forward and backward, on the device; about 0.3 s."""
    import torch

    layer = torch.nn.Conv3d(32, 32, 3, padding=1).to(device)
    image = torch.zeros(1, 32, 40, 40, 40, device=device)
    work = 2 * 27 * 32 * 32 * 40**3 * BACKWARD
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        layer(image).sum().backward()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return work / best
