"""ONNX Runtime, on the CPU or through TensorRT on a GPU."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import UserError
from medseg.predict.engines.table import Forward, Setting

if TYPE_CHECKING:
    from torch import Tensor, nn


def make(net: nn.Module, setting: Setting) -> Forward:
    """The network in float32 on the CPU."""
    if setting.precision != "fp32":
        raise UserError(
            f"ONNX Runtime computes in fp32 on a CPU, not in {setting.precision}",
            "predict.precision",
            "take predict.precision: fp32, or predict.engine: openvino",
        )
    return _Session(net, ["CPUExecutionProvider"])


def make_tensorrt(net: nn.Module, setting: Setting) -> Forward:
    """The network in TensorRT, in float16 where that is asked for."""
    options = {"trt_fp16_enable": setting.precision == "fp16"}
    return _Session(net, [("TensorrtExecutionProvider", options), "CUDAExecutionProvider"])


class _Session:
    """A session for each window size, made when the first window of that size comes."""

    def __init__(self, net: nn.Module, providers: list[Any]) -> None:
        self.net, self.providers = net, providers
        self.sessions: dict[tuple[int, ...], Any] = {}

    def __call__(self, windows: Tensor) -> Tensor:
        import torch

        size = tuple(windows.shape[1:])
        if size not in self.sessions:
            self.sessions[size] = self._session(windows[:1])
        session = self.sessions[size]
        answers = [session.run(None, {"image": w[None].cpu().numpy()})[0] for w in windows]
        return torch.cat([torch.from_numpy(answer) for answer in answers])

    def _session(self, window: Tensor) -> Any:
        import onnxruntime
        import torch

        from medseg.model.convert import write_onnx

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            write_onnx(self.net, torch.zeros_like(window, device="cpu"), path)
            return onnxruntime.InferenceSession(str(path), options, providers=self.providers)
