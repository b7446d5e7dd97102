"""A model as a MONAI bundle: metadata, the steps before and after the network as MONAI's transforms, TorchScript.

MONAI's transforms are not medseg's to the last digit (its resampling is linear in `Spacingd`), so a bundle gives masks
that are near medseg's, not equal; the network in it is compared exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.config import Plan
from medseg.core.atomic import write_json, write_text
from medseg.core.errors import UserError
from medseg.model.folder import Model

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)

NEEDED = ("nibabel", "pillow", "pytorch-ignite", "fire")
"""What MONAI needs beside itself to run a bundle."""


def write_bundle(model: Model, folder: Path) -> None:
    """Writes configs/, docs/ and LICENSE beside models/model.ts. Raises UserError where MONAI has no such step."""
    (folder / "configs").mkdir()
    (folder / "docs").mkdir()
    write_json(folder / "configs" / "metadata.json", metadata(model))
    write_json(folder / "configs" / "inference.json", inference(model))
    write_text(folder / "docs" / "README.md", _readme(model))
    write_text(folder / "LICENSE", str(model.facts.get("licence", "")) + "\n")


def open_bundle_network(folder: Path) -> Callable[[Tensor], Tensor]:
    """The network of a bundle that was just written, through MONAI's own parser of its configuration."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser["bundle_root"] = str(folder)
    net = parser.get_parsed_content("network_def")

    def run(windows: Tensor) -> Tensor:
        import torch

        with torch.inference_mode():
            logits: Tensor = net(windows)
        return logits

    return run


def metadata(model: Model) -> dict[str, Any]:
    """configs/metadata.json."""
    import monai
    import numpy
    import torch

    plan = model.plan
    names = (["background"] if plan.background else []) + [info.name for info in model.classes]
    image = {"type": "image", "format": "hounsfield" if plan.intensity[0].scheme in ("ct", "window") else "magnitude",
             "num_channels": plan.in_channels, "spatial_shape": list(plan.patch_size), "dtype": "float32",
             "value_range": [], "is_patch_data": True,
             "channel_def": {str(n): f"channel {n}" for n in range(plan.in_channels)}}  # fmt: skip
    pred = {"type": "image", "format": "segmentation", "num_channels": plan.out_channels,
            "spatial_shape": list(plan.patch_size), "dtype": "float32", "value_range": [], "is_patch_data": True,
            "channel_def": {str(n): name for n, name in enumerate(names)}}  # fmt: skip
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": "exported by medseg"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": numpy.__version__,
        "required_packages_version": {name: found for name in NEEDED if (found := _version(name))},
        "task": "segmentation",
        "description": f"{model.system.slug}, model {model.hash[:12]}",
        "authors": "exported by medseg",
        "copyright": str(model.facts.get("licence", "")),
        "intended_use": str(model.facts.get("intended_use", "")),
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }


def inference(model: Model) -> dict[str, Any]:
    """configs/inference.json: what is done to an image, the windows, and what is done to the answer."""
    plan = model.plan
    before: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image", **_reader(plan)},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
    ]
    if plan.dims == 3:
        before.append({"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"})
    before.append(_intensity(model))
    before += _onto_grid(plan)
    if plan.margin:
        before.append({"_target_": "BorderPadd", "keys": "image", "spatial_border": plan.margin})
    answer = {"sigmoid": True} if plan.overlapping else {"softmax": True}
    discrete = {"threshold": 0.5} if plan.overlapping else {"argmax": True}
    return {
        "imports": ["$import glob", "$import monai"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "datalist": [],
        "network_def": {"_target_": "torch.jit.load", "f": "$@bundle_root + '/models/model.ts'"},
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": before},
        "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]",
                    "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": list(plan.patch_size), "sw_batch_size": 1,
                    "overlap": 0.5, "mode": "gaussian"},
        "postprocessing": {"_target_": "Compose", "transforms": [
            {"_target_": "Activationsd", "keys": "pred", **answer},
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image",
             "nearest_interp": False, "to_tensor": True},
            {"_target_": "AsDiscreted", "keys": "pred", **discrete},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"}]},
        "evaluator": {"_target_": "SupervisedEvaluator", "device": "@device", "val_data_loader": "@dataloader",
                      "network": "@network", "inferer": "@inferer", "postprocessing": "@postprocessing"},
        "run": ["$@evaluator.run()"],
    }  # fmt: skip


def _onto_grid(plan: Plan) -> list[dict[str, Any]]:
    """The steps that bring an image onto the network's grid; `Invertd` brings the mask back."""
    if plan.spacing_px is not None:
        shrink = [1 / n for n in plan.spacing_px]
        return [{"_target_": "Zoomd", "keys": "image", "zoom": shrink, "mode": "area", "keep_size": False}]
    if plan.spacing_mm is None:
        return []
    steps: list[dict[str, Any]] = []
    if plan.image_order == 1:
        # Ours widens the linear kernel by the ratio r of the spacings; MONAI's stays one voxel wide and lets the noise
        # of fine images through. A Gaussian of what lacks in variance, (r^2 - 1) / 6, comes before it.
        sigma = "max(1e-3, ((max(1.0, (s / float(p)) ** 2) - 1) / 6) ** 0.5)"
        widths = f"[{sigma} for s, p in zip({list(plan.spacing_mm)}, x.pixdim)]"
        smooth = f"$lambda x: monai.transforms.GaussianSmooth({widths})(x)"
        steps.append({"_target_": "Lambdad", "keys": "image", "func": smooth})
    onto = {"_target_": "Spacingd", "keys": "image", "pixdim": list(plan.spacing_mm), "mode": "bilinear"}
    return [*steps, onto]


def _reader(plan: Plan) -> dict[str, Any]:
    """MONAI reads a picture's columns first, unless it is told not to: the network has learnt rows first."""
    if plan.dims == 2 and plan.spacing_mm is None:
        return {"reader": "PILReader", "reverse_indexing": False}
    return {}


def _intensity(model: Model) -> dict[str, Any]:
    """The change of numbers as one of MONAI's transforms."""
    schemes = model.plan.intensity
    first = schemes[0]
    if any(scheme != first for scheme in schemes):
        raise UserError(
            "its channels are changed in different ways, which a bundle has no one step for",
            "export to a MONAI bundle",
        )
    if first.scheme in ("ct", "window") and first.low is not None and first.high is not None:
        return {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": first.low, "a_max": first.high,
                "b_min": (first.low - first.shift) / first.scale, "b_max": (first.high - first.shift) / first.scale,
                "clip": True}  # fmt: skip
    if first.scheme == "zscore":
        return {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True}
    if first.scheme in ("rgb", "none"):
        return {
            "_target_": "NormalizeIntensityd",
            "keys": "image",
            "subtrahend": first.shift,
            "divisor": first.scale,
        }
    raise UserError(
        f"MONAI has no step for intensities of the kind {first.scheme}",
        "export to a MONAI bundle",
        "export to onnx or torchscript and prepare images with medseg",
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _readme(model: Model) -> str:
    image = "image.png" if "reader" in _reader(model.plan) else "image.nii.gz"
    left_out = _left_out(model.plan)
    lines = [f"# {model.system.slug}", "", f"Exported by medseg from the model {model.hash}.", "",
             str(model.facts.get("intended_use", "")), "", "Classes: " + ", ".join(i.name for i in model.classes), "",
             "Once: `pip install monai nibabel pillow pytorch-ignite fire`. Then, in this folder:", "",
             "    python -m monai.bundle run --config_file configs/inference.json --bundle_root . "
             f"--datalist \"['{image}']\"", "",
             "The network was compared with the model's (medseg.json says how near it is); what is around it is MONAI's: "
             "images are resampled by MONAI's interpolation, on a grid that may begin elsewhere"
             + "".join(f", {what}" for what in left_out)
             + ". Masks are not those of `medseg predict`; score them before use."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _left_out(plan: Plan) -> list[str]:
    """What `medseg predict` does with this plan and MONAI's steps do not."""
    return [
        what
        for what, is_done in (
            ("windows are the patches of training", plan.window is not None),
            ("windows are not averaged with mirrored copies", plan.flips),
            ("borders are not moved to the image's own edges", plan.guided_filter is not None),
            ("nothing is cut away beforehand", plan.crop != "none"),
            ("components are not sorted out", True),
        )
        if is_done
    ]
