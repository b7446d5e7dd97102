"""OpenVINO: the fastest engine on Intel and AMD CPUs, in float32, bfloat16 or, behind the gate, int8.

On CPUs that multiply bfloat16 it takes that type unless told otherwise, so the type is always said.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.errors import UserError
from medseg.predict.engines.kept import cache_folder
from medseg.predict.engines.table import Forward, Setting

if TYPE_CHECKING:
    from torch import Tensor, nn

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def make(net: nn.Module, setting: Setting) -> Forward:
    """The converted network; int8 measures its ranges on the setting's samples and needs NNCF."""
    if setting.precision not in HINTS:
        raise UserError(
            f"OpenVINO computes in fp32, bf16 or int8 on a CPU, not in {setting.precision}",
            "predict.precision",
            "take predict.precision: auto",
        )
    return _OpenVino(net, setting)


class _OpenVino:
    """A compiled model for each window size."""

    def __init__(self, net: nn.Module, setting: Setting) -> None:
        self.net, self.setting = net, setting
        self.compiled: dict[tuple[int, ...], Any] = {}

    def __call__(self, windows: Tensor) -> Tensor:
        import torch

        size = tuple(windows.shape[1:])
        if size not in self.compiled:
            self.compiled[size] = self._compile(windows[:1])
        run = self.compiled[size]
        return torch.cat([torch.from_numpy(run(w[None].numpy())[0]) for w in windows])

    def _compile(self, window: Tensor) -> Any:
        import torch

        from medseg.model.convert import require

        openvino = require("openvino", "predict.engine: openvino")
        config = {
            "INFERENCE_PRECISION_HINT": HINTS[self.setting.precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = openvino.Core()
        model = self._model(openvino, core, window)
        return core.compile_model(model, "CPU", config)

    def _model(self, openvino: Any, core: Any, window: Tensor) -> Any:
        """The converted network, from the cache where an earlier prediction left it."""
        from medseg.model.convert import open_vino_model

        path = self._kept(openvino, window)
        if path is not None and path.is_file():
            return core.read_model(str(path))
        model = open_vino_model(self.net, window * 0)
        if self.setting.precision == "int8":
            model = _quantised(model, self.setting.samples)
        elif path is not None:
            _keep(openvino, model, path)
        return model

    def _kept(self, openvino: Any, window: Tensor) -> Path | None:
        folder = cache_folder() if self.setting.cache and self.setting.precision != "int8" else None
        if folder is None:
            return None
        size = "x".join(str(n) for n in window.shape[1:])
        version = openvino.__version__.split("-")[0]
        return folder / f"{self.setting.cache}-{size}-openvino-{version}.xml"


def _keep(openvino: Any, model: Any, path: Path) -> None:
    """Writes the .bin first under its final name's twin: the .xml that is looked for appears last."""
    import os
    import tempfile

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        openvino.save_model(model, str(part), compress_to_fp16=False)
        os.replace(part.with_suffix(".bin"), path.with_suffix(".bin"))
        os.replace(part, path)


def _quantised(model: Any, samples: Tensor) -> Any:
    import os

    from medseg.model.convert import require

    # It counts its use on a server unless it believes to run in its makers' tests.
    os.environ.setdefault("NNCF_CI", "1")
    nncf = require("nncf", "predict.precision: int8")
    data = nncf.Dataset([sample[None].numpy() for sample in samples])
    return nncf.quantize(model, data, subset_size=len(samples))
