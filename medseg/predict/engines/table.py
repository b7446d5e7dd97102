"""The engines: name -> what it needs, which number types it has, and what it costs to set up. Loads none of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from medseg.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

Forward = Callable[["Tensor"], "Tensor"]
"""Windows (B, C, *S) of a size that the network takes -> logits (B, K, *S)."""


@dataclass(frozen=True)
class Setting:
    """How a converted network is to run.

    precision: fp32, bf16, fp16 or int8. samples: prepared windows (N, C, *S) that int8 ranges are measured on.
    cache: a folder's name for what was converted, "" for none.
    """

    precision: str
    samples: Tensor
    cache: str = ""


@dataclass(frozen=True)
class Engine:
    """One engine.

    at: "module:function" of `make(net, setting) -> Forward`. modules: what must be installed. on: devices it runs on.
    precisions: number types, the fastest first; `auto` never takes int8. set_up_seconds: what making it costs, about;
    `auto` does not begin it for work that is done sooner.
    """

    name: str
    title: str
    at: str
    modules: tuple[str, ...]
    on: tuple[str, ...]
    precisions: tuple[str, ...]
    set_up_seconds: float

    def missing(self, device: str) -> str:
        """Why it cannot be used here, in words; empty where it can."""
        kind = device.partition(":")[0]
        if kind not in self.on:
            return f"{self.title} does not run on {kind}"
        absent = [name for name in self.modules if find_spec(name) is None]
        if absent:
            return f"{self.title} is not installed: pip install 'medseg[infer]'"
        return _PROBES[self.name]() if self.name in _PROBES else ""

    def make(self, net: nn.Module, setting: Setting) -> Forward:
        """The network in this engine. Raises UserError where it cannot be converted."""
        module, _, name = self.at.partition(":")
        made: Forward = getattr(import_module(module), name)(net, setting)
        return made

    def require(self, device: str) -> None:
        """Raises UserError where this engine cannot be used."""
        why = self.missing(device)
        if why:
            raise UserError(why, f"predict.engine: {self.name}", "or take predict.engine: auto or torch")


def _no_compiler() -> str:
    found = any(shutil.which(name) for name in ("g++", "clang++", "c++"))
    return "" if found else "torch.compile needs a C++ compiler, and none is installed"


def _no_tensorrt() -> str:
    import onnxruntime

    found = "TensorrtExecutionProvider" in onnxruntime.get_available_providers()
    return (
        "" if found else "this ONNX Runtime was built without TensorRT: pip install onnxruntime-gpu tensorrt"
    )


_PROBES: dict[str, Callable[[], str]] = {"compile": _no_compiler, "tensorrt": _no_tensorrt}

_HOME = "medseg.predict.engines"
ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine("compile", "torch.compile", f"{_HOME}.compiled:make", ("torch",), ("cpu", "cuda"),
               ("fp16", "bf16", "fp32"), 40.0),
        Engine("onnxruntime", "ONNX Runtime", f"{_HOME}.onnx_runtime:make", ("onnx", "onnxscript", "onnxruntime"),
               ("cpu",), ("fp32",), 10.0),
        Engine("openvino", "OpenVINO", f"{_HOME}.open_vino:make", ("openvino",), ("cpu",), ("bf16", "fp32", "int8"),
               30.0),
        Engine("tensorrt", "TensorRT", f"{_HOME}.onnx_runtime:make_tensorrt", ("onnx", "onnxscript", "onnxruntime"),
               ("cuda",), ("fp16", "fp32"), 120.0),
    )
}  # fmt: skip
"""Beside them there is `torch`, the network as it is."""
