"""A model folder in the forms that other programs read, each compared with the network before it is given out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.atomic import write_json
from medseg.core.errors import UserError
from medseg.model.convert import logits_only, open_vino_model, require, traced, window_of, write_onnx
from medseg.model.folder import Model, load_model, new_folder
from medseg.model.parity import PARITY, Agreement, agreement

if TYPE_CHECKING:
    from torch import Tensor

FORMS = ("onnx", "openvino", "torchscript", "monai-bundle")

FACTS = "medseg.json"
"""Beside every exported network: what has to be done before and after it."""


def export_model(folder: Path, form: str, out: Path) -> dict[str, Any]:
    """Writes the folder `out` with the model in one of FORMS; returns {form, files, dice, voxels_equal, ...}.

    Raises UserError for a model without a network, for a network that the form cannot hold, and when the exported
    network does not give the labels of this one (Dice below 0.999): nothing is left behind then.
    """
    if form not in FORMS:
        raise UserError(f"no form {form!r}", "--to", f"it is {', '.join(FORMS)}")
    out = Path(out)
    if out.exists():
        raise UserError("exists already", str(out), "choose another name with --out")
    model = load_model(Path(folder))
    if model.net is None:
        raise UserError(f"holds {model.system.slug}, which is a program and no network", str(folder))
    if model.previous is not None:
        raise UserError(
            "is a cascade: its network needs the masks of its first stage, which no other program would make",
            str(folder),
            "predict with medseg, or export a model of one stage",
        )
    if model.parts:
        raise UserError(
            f"is the mean of {len(model.parts)} configurations, which see different windows of different grids",
            str(folder),
            "predict with medseg, or export one of its members",
        )
    window = window_of(model.net, model.plan.in_channels, model.plan.patch_size)
    with new_folder(out) as part:
        run = _WRITERS[form](model, window, part)
        found = compare(model, run, window)
        if found.dice < PARITY:
            raise UserError(
                f"the exported network gives other labels: {found.text}",
                form,
                f"a Dice of {PARITY} is asked for; choose another form",
            )
        facts = _facts(model, form, window, found, part)
        write_json(part / FACTS, facts)
    return facts


def compare(model: Model, run: Callable[[Tensor], Tensor], window: Tensor) -> Agreement:
    """The agreement of an exported network with the model on a smooth random window of its own kind of numbers."""
    import torch

    assert model.net is not None
    generator = torch.Generator().manual_seed(7)
    coarse = torch.randn(
        (1, window.shape[1], *(max(2, n // 8) for n in window.shape[2:])), generator=generator
    )
    mode = "trilinear" if window.ndim == 5 else "bilinear"
    image = torch.nn.functional.interpolate(coarse, size=window.shape[2:], mode=mode)
    image += 0.1 * torch.randn(image.shape, generator=generator)
    with torch.inference_mode():
        ours = logits_only(model.net)(image)
    return agreement(run(image), ours, model.plan.background, model.plan.overlapping)


# --- the forms ----------------------------------------------------------------------------------------------------


def _onnx(model: Model, window: Tensor, part: Path) -> Callable[[Tensor], Tensor]:
    import torch

    path = part / "model.onnx"
    write_onnx(_net(model), window, path)
    runtime = require("onnxruntime", "the check of an ONNX export")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def _openvino(model: Model, window: Tensor, part: Path) -> Callable[[Tensor], Tensor]:
    import torch

    openvino = require("openvino", "export to OpenVINO")
    path = part / "model.xml"
    openvino.save_model(open_vino_model(_net(model), window), str(path), compress_to_fp16=False)
    run = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: torch.from_numpy(run(image.numpy())[0])


def _torchscript(model: Model, window: Tensor, part: Path) -> Callable[[Tensor], Tensor]:
    import torch

    path = part / "model.ts"
    torch.jit.save(traced(_net(model), window), str(path))
    # Our own file, just written: it is loaded again to compare what others will run.
    return torch.jit.load(str(path))


def _monai_bundle(model: Model, window: Tensor, part: Path) -> Callable[[Tensor], Tensor]:
    from medseg.model.monai_bundle import open_bundle_network, write_bundle

    (part / "models").mkdir()
    _torchscript(model, window, part / "models")
    write_bundle(model, part)
    return open_bundle_network(part)


_WRITERS: dict[str, Callable[[Model, Any, Path], Callable[[Any], Any]]] = {
    "onnx": _onnx,
    "openvino": _openvino,
    "torchscript": _torchscript,
    "monai-bundle": _monai_bundle,
}


def _net(model: Model) -> Any:
    assert model.net is not None
    return model.net


def _facts(model: Model, form: str, window: Tensor, found: Agreement, part: Path) -> dict[str, Any]:
    files = sorted(path for path in part.rglob("*") if path.is_file())
    return {
        "form": form,
        "model": model.hash,
        "system": model.system.slug,
        "input": {"name": "image", "shape": list(window.shape), "type": "float32"},
        "output": {"name": "logits", "channels": model.plan.out_channels},
        "dice": round(found.dice, 6),
        "voxels_equal": round(found.voxels, 6),
        "largest_difference": found.largest,
        "files": {str(p.relative_to(part)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
        "plan": model.plan.model_dump(mode="json", exclude={"reasons", "estimate"}),
        "licence": model.facts.get("licence", ""),
        "intended_use": model.facts.get("intended_use", ""),
    }
