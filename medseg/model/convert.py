"""A network in other forms: ONNX, OpenVINO, TorchScript. Each has the window's size fixed and a batch of one.

Every form is made from a window (1, C, *S) of the size it will be used with, so that networks whose layers depend on
the size (position codes, pyramid pooling) are written as they behave at that size.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 18
"""ONNX operator set: the first with group and layer norms in a form that every runtime of the last years has."""

NAMES = {"onnx": "ONNX", "onnxscript": "onnxscript", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO",
         "nncf": "NNCF"}  # fmt: skip


def require(module: str, why: str) -> Any:
    """The module of the extra `infer`, imported. Raises UserError that names what to install."""
    # OpenVINO and NNCF report their use to a server through this package, and do without where it is absent.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return import_module(module)
    except ImportError as err:
        raise UserError(
            f"{NAMES.get(module, module)} is not installed", why, "pip install 'medseg[infer]'"
        ) from err


def logits_only(net: nn.Module) -> nn.Module:
    """The network as a module that returns one tensor, the logits, and nothing else."""
    import torch

    from medseg.zoo.outputs import main_of

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, windows: Tensor) -> Tensor:
            return main_of(self.net(windows))

    return Logits().eval()


def window_of(net: nn.Module, channels: int, patch: tuple[int, ...] | list[int]) -> Tensor:
    """Zeros (1, C, *S) of the size the network is given: the patch, padded to its divisor or to its lost border."""
    import torch

    if getattr(net, "margin", 0):
        sizes = [n + sum(net.border(n)) if isinstance(net.border(n), tuple) else n for n in patch]
        return torch.zeros((1, channels, *sizes))
    wish = getattr(net, "divisor", 1)
    multiples = [wish] * len(patch) if isinstance(wish, int) else list(wish)
    return torch.zeros((1, channels, *(n + -n % m for n, m in zip(patch, multiples))))


def traced(net: nn.Module, window: Tensor) -> Any:
    """A TorchScript module that was traced on a window. Raises UserError where the network cannot be traced."""
    import torch

    with _quiet(), _can_be_written("TorchScript"), torch.no_grad():
        return torch.jit.trace(logits_only(net), window, check_trace=False)


def write_onnx(net: nn.Module, window: Tensor, path: Path) -> None:
    """Writes one .onnx file; input `image` (1, C, *S), output `logits` (1, K, *S), both float32."""
    import torch

    for module in ("onnx", "onnxscript"):
        require(module, "export to ONNX")
    with _quiet(), _can_be_written("ONNX"), torch.no_grad():
        torch.onnx.export(logits_only(net), (window,), str(path), input_names=["image"], output_names=["logits"],
                          opset_version=OPSET, dynamo=True, external_data=False, verbose=False)  # fmt: skip


def open_vino_model(net: nn.Module, window: Tensor) -> Any:
    """An `openvino.Model` with the window's shape."""
    import torch

    openvino = require("openvino", "the engine OpenVINO")
    with _quiet(), _can_be_written("OpenVINO"), torch.no_grad():
        model = openvino.convert_model(traced(net, window), example_input=window)
        model.reshape(list(window.shape))
    model.inputs[0].get_tensor().set_names({"image"})
    model.outputs[0].get_tensor().set_names({"logits"})
    return model


@contextmanager
def _can_be_written(form: str) -> Iterator[None]:
    """A converter's failure as one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as err:
        first = str(err).strip().splitlines()[0][:200] if str(err).strip() else type(err).__name__
        raise UserError(
            f"this network cannot be written as {form}: {first}",
            hint="take predict.engine: torch, which runs every network",
        ) from err


@contextmanager
def _quiet() -> Iterator[None]:
    """Converters tell their own developers many things."""
    kept = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(kept)
