"""Which number type the network computes in, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PARITY = 0.999
"""Smallest share of voxels that must get the same label in half precision as in float32."""


def number_type(precision: str, device: str) -> tuple[torch.dtype | None, str]:
    """The autocast type (None: float32) for `predict.precision` on a device, and the reason in words.

    auto: float16 on a GPU; bfloat16 on a CPU that multiplies matrices of it in hardware (AMX); else float32.
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
    if device.startswith("cuda"):
        return torch.float16, "fp16: this is a GPU"
    if device == "cpu" and has_matrix_units():
        return torch.bfloat16, "bf16: this CPU has matrix units (AMX)"
    return None, "fp32: no faster type on this device"


def has_matrix_units() -> bool:
    """Whether this CPU has AMX tiles that multiply bfloat16."""
    import torch

    probe = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe()) if probe is not None else False


def parity(net: nn.Module, window: Tensor, dtype: torch.dtype) -> float:
    """Share of voxels of a window (C, *S) that get the same label in `dtype` as in float32."""
    from medseg.predict.engines.eager import Eager
    from medseg.predict.planes import winners

    full, half = (Eager(net, autocast=kind)(window[None])[0] for kind in (None, dtype))
    if len(full) == 1:
        return float(((full > 0) == (half > 0)).float().mean())
    return float((winners(full) == winners(half)).float().mean())
