"""Which number type the network computes in, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.core.errors import UserError

if TYPE_CHECKING:
    import torch


def number_type(precision: str, device: str) -> tuple[torch.dtype | None, str]:
    """The autocast type (None: float32) for `predict.precision` on a device, and the reason in words.

    auto: float16 on a GPU; bfloat16 on a CPU that multiplies it in hardware; else float32.
    Raises UserError where the device has no such type.
    """
    import torch

    if precision == "fp32":
        return None, "fp32 as asked"
    if precision == "bf16":
        return torch.bfloat16, "bf16 as asked"
    if precision == "fp16":
        if device == "cpu":
            raise UserError("fp16 is for GPUs", "predict.precision", "use bf16 or auto on a CPU")
        return torch.float16, "fp16 as asked"
    if precision == "int8":
        raise UserError("PyTorch has no int8 here", "predict.precision", "take predict.engine: openvino")
    if device.startswith("cuda"):
        return torch.float16, "fp16: this is a GPU"
    if device == "cpu" and has_bfloat16():
        return torch.bfloat16, "bf16: this CPU multiplies it in hardware"
    return None, "fp32: no faster type on this device"


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware (AMX or AVX-512): networks then take half the time or less."""
    import torch

    probes = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16")]
    return any(probe() for probe in probes if probe is not None)
