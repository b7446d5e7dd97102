"""torch.compile: the network as machine code of its own, made once with the system's C++ compiler (or for the GPU)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medseg.core.errors import UserError
from medseg.predict.engines.table import Forward, Setting

if TYPE_CHECKING:
    from torch import Tensor, nn


def make(net: nn.Module, setting: Setting) -> Forward:
    """The compiled network; compilation happens at the first window and takes half a minute."""
    import torch

    from medseg.model.convert import logits_only

    kinds = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if setting.precision not in kinds:
        raise UserError(
            f"torch.compile has no {setting.precision}",
            "predict.precision",
            "take predict.engine: openvino for int8",
        )
    kind = kinds[setting.precision]
    compiled = torch.compile(logits_only(net), dynamic=False)

    def forward(windows: Tensor) -> Tensor:
        # The last batch may be smaller, and every size is compiled anew: windows go one by one.
        with (
            torch.inference_mode(),
            torch.autocast(windows.device.type, dtype=kind, enabled=kind is not None),
        ):
            return torch.cat([compiled(window[None]) for window in windows])

    return forward
