"""Where and in which number type a training computes, with the reason for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medseg.core.errors import UserError

if TYPE_CHECKING:
    import torch

FABRIC_NAMES = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}

OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")

WORTHWHILE = 1.25
"""bf16 is taken on a CPU when the probe ran at least this much faster than fp32."""


@dataclass(frozen=True)
class Precision:
    """Number type of the convolutions (fp32, bf16 or fp16; weights and loss stay float32) and why it was chosen."""

    name: str
    reason: str

    @property
    def autocast(self) -> torch.dtype | None:
        """What prediction takes for the same numbers; None for fp32."""
        import torch

        return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[self.name]


def choose_precision(wish: str, device: str, dims: int) -> Precision:
    """fp32, bf16 or fp16 as wished; `auto` asks the GPU, or times a convolution on the CPU once."""
    import torch

    if wish != "auto":
        return Precision(wish, "set in the pipeline file")
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Precision(
            "bf16" if native else "fp16", f"the GPU has {'bf16' if native else 'no bf16, but fp16'}"
        )
    if device != "cpu":
        return Precision("fp32", f"mixed precision is not used on {device}")
    try:
        faster = probe_bf16(dims)
    except RuntimeError as err:
        return Precision("fp32", f"bf16 does not work on this CPU: {str(err).splitlines()[0]}")
    if faster >= WORTHWHILE:
        return Precision("bf16", f"a test convolution took {faster:.1f} times less time than in fp32")
    return Precision("fp32", f"bf16 is not faster on this CPU ({faster:.1f} times)")


def probe_bf16(dims: int, repeats: int = 4) -> float:
    """How many times faster a convolution with its gradient runs in bf16 than in fp32 on this CPU; takes 0.3 s.

    One thread, and its own processor time: other programs on the machine do not change the answer, so the same
    machine trains in the same numbers each time.
    """
    import torch

    size = (2, 16, 32, 32, 32) if dims == 3 else (2, 16, 192, 192)
    convolve = torch.nn.functional.conv3d if dims == 3 else torch.nn.functional.conv2d
    image = torch.zeros(size, requires_grad=True)
    weight = torch.zeros(16, 16, *[3] * dims, requires_grad=True)
    best = {False: float("inf"), True: float("inf")}
    with threads(1):
        for _ in range(repeats):
            for in_bf16 in (False, True):
                start = time.thread_time()
                with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
                    out = convolve(image, weight, padding=1)
                out.sum().backward()
                best[in_bf16] = min(best[in_bf16], time.thread_time() - start)
    return best[False] / best[True]


@contextmanager
def memory_in_words(batch_size: int, patch_size: Sequence[int]) -> Iterator[None]:
    """Says which setting to lower when memory does not suffice for a step."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as err:
        text = str(err).lower()
        if isinstance(err, RuntimeError) and not any(words in text for words in OUT_OF_MEMORY):
            raise
        size = "x".join(str(n) for n in patch_size)
        raise UserError(
            f"memory does not suffice for a training step on {batch_size} patches of {size} voxels",
            "train.batch_size, train.patch_size",
            "lower train.batch_size or train.patch_size, or take a smaller size of the system",
        ) from err


NARROW = 16
"""bf16 convolutions on CPUs work on blocks of 16 channels; narrower ones gain from channels that lie side by side."""


def lay_out(net: Any, device: str, precision: Precision) -> None:
    """Puts the weights of narrow 3D networks on a CPU in channels-last order, in place.

    Measured with 3d-u-net in bf16 on 2x64^3: 0.42 s a step instead of 0.58 at 8 channels, but 0.90 instead of 0.84
    at 16; for fp32 see benchmarks/narrow_networks.py. The rule depends on the network alone, so that a resumed
    training computes the same bits.
    """
    import torch

    widths = [
        m.out_channels for m in net.modules() if isinstance(m, torch.nn.Conv3d) and max(m.kernel_size) > 1
    ]
    if device == "cpu" and precision.name != "fp16" and widths and min(widths) < NARROW:
        net.to(memory_format=torch.channels_last_3d)


@contextmanager
def threads(cores: int) -> Iterator[None]:
    """torch computes with `cores` threads inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_fabric(device: str, precision: Precision) -> Any:
    """Lightning Fabric for one device, or for as many processes as torchrun started."""
    import os

    from lightning_fabric import Fabric

    # It announces every number type; the step's own line says which one was taken, and why.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    kind, _, number = device.partition(":")
    numbers = FABRIC_NAMES[precision.name]
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Fabric(accelerator=kind, devices=[int(number)] if number else 1, precision=numbers)
    fabric = Fabric(
        accelerator=kind,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        strategy="ddp_find_unused_parameters_true",  # the coarsest output of deep supervision is not learnt from
        precision=numbers,
    )
    fabric.launch()
    return fabric


def agree(fabric: Any, *values: float) -> tuple[float, ...]:
    """The largest of each value over all processes, so that they stop, and change their rate, together."""
    if fabric.world_size == 1:
        return values
    import torch

    mine = torch.tensor(values, dtype=torch.float32, device=fabric.device)
    return tuple(fabric.all_reduce(mine, reduce_op="max").tolist())
