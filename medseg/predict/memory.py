"""How much memory a prediction will take, worked out before it starts."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import prod
from typing import TYPE_CHECKING, Any

from medseg.config import Compute, Plan
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.machine import parse_bytes, ram_available_bytes
from medseg.ingest.resample import SLAB_BYTES
from medseg.predict.engines.small_volumes import SMALL_VOLUME
from medseg.predict.head import noise, one_thread, quarter
from medseg.predict.planes import PORTION
from medseg.predict.stream import CHUNK
from medseg.predict.windows import HEAD_PLANES, Cut

if TYPE_CHECKING:
    from torch import nn

SCRATCH = 1.3
"""Layouts and scratch that the convolution library holds beside a network's tensors, measured."""

CONVERTED = 200 * 2**20
"""What a converting engine holds beside the network's tensors: its libraries, and the network in its own form."""

FROM_HEAP = 32 * 2**20
"""Below this size the C library may take a block from its heap, where those that are given back leave gaps, measured."""

LIBRARIES = 64 * 2**20
"""What numerical libraries keep for themselves once they compute: thread buffers, packed weights, code."""

GPU_SHARE = 0.85
"""Share of a GPU's free memory that is counted on."""


@dataclass(frozen=True)
class Estimate:
    """Bytes that one case needs beside what the process holds already, part by part."""

    image: int
    prepared: int
    sums: int
    windows: int
    planes: int
    labels: int
    borders: int = 0

    @property
    def total(self) -> int:
        # While the image is prepared no logits exist yet, and the other way round.
        return (
            self.image
            + max(
                2 * self.prepared + 3 * SLAB_BYTES,
                self.prepared + self.sums + self.windows + self.planes,
                self.prepared + self.borders,
            )
            + self.labels
            + LIBRARIES
        )

    def describe(self) -> str:
        parts = {"image": self.image, "prepared": self.prepared, "logits of open planes": self.sums,
                 "network": self.windows, "way back": self.planes, "labels": self.labels, "borders": self.borders}  # fmt: skip
        return ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items() if size > 5e6) + " GB"


def estimate(
    geometry: Geometry,
    itemsize: int,
    plan: Plan,
    cut: Cut,
    window_bytes: int,
    accumulators: int = 1,
    summed: int | None = None,
) -> Estimate:
    """The memory of one case on `geometry`, whose voxels take `itemsize` bytes as read.

    accumulators: how many networks' logits are summed up side by side; more than one have a slab of their mean beside
    them. summed: channels that are summed up where the last layer was put off, None for one a class. An upper bound: a crop that the plan allows is not
    counted on.
    """
    turned, _, _ = geometry.reoriented()
    grid = plan.grid_of(turned)
    shape = cut.padded(grid.shape)
    lead = cut.lead(grid.shape)
    plane = prod(shape) // shape[lead]
    voxels = prod(geometry.shape)
    own_plane = voxels // turned.shape[lead]
    return Estimate(
        image=plan.image_channels * voxels * itemsize,
        prepared=4 * plan.in_channels * prod(shape),
        sums=((2 if cut.half_sums else 4) * accumulators + (12 if accumulators > 1 else 0))
        * (summed or plan.out_channels)
        * plane
        * cut.patch[lead],
        windows=window_bytes * cut.batch_size,
        planes=4 * plan.out_channels * plane * (2 * CHUNK if summed is None else 2 * HEAD_PLANES + 2)
        + 16 * own_plane
        + 16 * PORTION,
        labels=voxels * (1 + (plan.out_channels if plan.overlapping else 0)),
    )


def on_gpu(need: Estimate, device: str, only_in_ram: bool = False) -> tuple[Estimate, bool]:
    """What is left for main memory when the network runs on a GPU, and whether the logits have to stay in it.

    Logits are added up on the GPU where its free memory holds them, unless they are to stay `only_in_ram`. What PyTorch
    keeps there for itself from earlier cases is free: otherwise a second case would be made in another manner.
    """
    if not device.startswith("cuda"):
        return need, False
    import torch

    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + kept
    if not only_in_ram and need.sums + need.windows + need.planes < GPU_SHARE * free:
        return replace(need, sums=0, windows=0, planes=0), False
    return replace(need, windows=0), True


def engine_bytes(engine: str) -> int:
    """What `predict.engine` holds beside a window; `auto` may take any engine that is installed."""
    others = [name for name in ("openvino", "onnxruntime") if find_spec(name) is not None]
    return 0 if engine == "torch" or (engine == "auto" and not others) else CONVERTED


def window_bytes(net: nn.Module, channels: int, patch: Sequence[int], out_channels: int = 1) -> int:
    """Peak memory of one window in float32, scaled up from a run on a window a quarter as long.

    0 for networks that refuse such a window; the estimate is then too small by as much. Of an ensemble, whose members
    run one after the other, the largest member's, and three windows of logits for their mean.
    """
    import torch

    members = getattr(net, "members", None)
    if members is not None:
        mean = 12 * out_channels * prod(patch)
        return mean + max(window_bytes(member, channels, patch, out_channels) for member in members)
    wish = getattr(net, "divisor", 1)
    multiples = [wish] * len(patch) if isinstance(wish, int) else wish
    full = [n + -n % m for n, m in zip(patch, multiples)]
    window = noise(net, channels, patch)
    growth = prod(full) / prod(quarter(net, patch))
    held = _Held([f / s for f, s in zip(full, window.shape[2:])])
    hooks = [m.register_forward_hook(held.look) for m in net.modules() if not list(m.children())]
    try:
        with one_thread(), torch.no_grad():
            net(window)
    except (RuntimeError, ValueError):
        return 0
    finally:
        for hook in hooks:
            hook.remove()
    return int(held.peak * growth)


def with_answers(window: int, channels: int, patch: Sequence[int]) -> int:
    """`window_bytes` of a network whose answers to a window, (channels, *patch) float32, are averaged or compared.

    One answer waits while the network makes the next; then there are that one, the next as it comes, mirrored back, with
    its classes exchanged, and the sum; of an ensemble the sum over its members as well.
    """
    answer = 4 * channels * prod(patch)
    return max(window + answer, 6 * answer) + (3 * answer if answer < FROM_HEAP else 0)


class _Held:
    """Adds up the tensors that go in and out of layers while they are alive, and remembers the most.

    growth: how many times longer the real window is, an axis.
    """

    def __init__(self, growth: Sequence[float]) -> None:
        self.growth = growth
        self.now = self.peak = 0.0
        self.known: set[int] = set()

    def look(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        for tensor in (*inputs, output):
            # Views and layers that work in place share their storage, which counts once.
            key = tensor.untyped_storage().data_ptr() if hasattr(tensor, "untyped_storage") else 0
            if key and key not in self.known:
                self.known.add(key)
                self.now += tensor.untyped_storage().nbytes()
                weakref.finalize(tensor, self.drop, key, tensor.untyped_storage().nbytes())
        self.peak = max(self.peak, self.now * SCRATCH, self.now + self.columns(layer, inputs, output))

    def columns(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> int:
        """Bytes of the neighbourhoods that PyTorch spells out for a 3D convolution which oneDNN is not given.

        In float32 that is one of few channels (`SMALL_VOLUME`), and with one thread one of a single voxel; where there
        is oneDNN, `small_volumes` hands it those as well.
        """
        import torch

        if torch.backends.mkldnn.is_available():
            return 0
        if not isinstance(layer, torch.nn.Conv3d) or layer.groups > 1 or not inputs[0].is_cpu:
            return 0
        image, size = inputs[0], layer.kernel_size
        planes = prod(image.shape[:4]) * self.growth[0] * self.growth[1]
        given = max(size[1:]) > 1 and (planes > SMALL_VOLUME or min(size[1:]) > 3)
        return 0 if given else int(4 * image.shape[1] * prod(size) * prod(output.shape[2:]))

    def drop(self, key: int, size: int) -> None:
        if key in self.known:
            self.known.remove(key)
            self.now -= size


def budget_bytes(compute: Compute) -> int:
    """What the process may use in all: `compute.ram`, else what it holds plus what is free."""
    if compute.ram is not None:
        return parse_bytes(compute.ram)
    return held_bytes() + ram_available_bytes()


def held_bytes() -> int:
    """Resident memory of this process now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def finer(geometry: Geometry, plan: Plan) -> str:
    """What the network's grid makes of a case, where that is much more than its own voxels; else ""."""
    if plan.spacing_mm is None or geometry.unit == "px":
        return ""
    grid = geometry.reoriented()[0].with_spacing(plan.spacing_mm)
    if prod(grid.shape) < 8 * prod(geometry.shape):
        return ""
    spacing, size = "x".join(f"{s:.3g}" for s in plan.spacing_mm), "x".join(map(str, grid.shape))
    return f" (the model's grid of {spacing} mm makes {size} voxels of it)"


def require_fit(needed: int, budget: int, where: str, details: str = "", grid: str = "") -> None:
    """Raises UserError with both numbers and what can be done when a case does not fit. grid: from `finer`."""
    if needed <= budget:
        return
    raise UserError(
        f"needs {needed / 1e9:.2f} GB of memory{grid}, {budget / 1e9:.2f} GB may be used",
        where,
        "raise compute.ram, take predict.batch_size: 1, or a model with a coarser grid or smaller windows",
        (details,) if details else (),
    )
