"""MONAI bundles as model folders: those whose network stands in the catalog and whose steps are plain values.

A bundle's configuration may hold Python (`$...`) and names of any class (`_target_`). Neither is ever run here: values
are read as data, classes are looked up in the closed table below, and what is not in it is refused by its name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.config import IntensityPlan, Plan, System
from medseg.core.atomic import read_json
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo, default_colour
from medseg.model.foreign import read_foreign

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = ("models/model.safetensors", "models/model.pt", "models/model.pth")
LETTERS = {"R": (0, False), "L": (0, True), "A": (1, False), "P": (1, True), "S": (2, False), "I": (2, True)}
HINT = "only bundles whose values are written out can be read; nothing in them is run"


def _segresnet(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "width": given.get("init_filters", 8),
        "blocks_down": list(given.get("blocks_down", (1, 2, 2, 4))),
        "blocks_up": list(given.get("blocks_up", (1, 1, 1))),
        "dropout": given.get("dropout_prob") or 0.0,
    }


def _unetr(given: Mapping[str, Any]) -> dict[str, Any]:
    sizes = given["img_size"] if isinstance(given["img_size"], list) else [given["img_size"]]
    if len(set(sizes)) > 1:
        raise UserError(
            f"its UNETR is built for windows of {sizes}; the catalog's has equal sides", hint=HINT
        )
    return {
        "image": sizes[0],
        "width": given.get("feature_size", 16),
        "hidden": given.get("hidden_size", 768),
        "heads": given.get("num_heads", 12),
    }


NETWORKS: dict[str, tuple[str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "SegResNet": ("segresnet", _segresnet),
    "UNETR": ("unetr", _unetr),
}
"""MONAI's class -> system of the catalog, and its arguments in the catalog's words."""


def import_monai(source: Path, target: Path, *, trust: bool = False) -> dict[str, Any]:
    """Writes the model folder `target` from a bundle (folder or zip); returns its facts.

    Raises UserError that names the entry for whatever is no plain value or has no counterpart.
    """
    from medseg.model.archive import unpack
    from medseg.model.folder import build_system, save_model, verify_model

    source = Path(source)
    with ExitStack() as stack:
        place = source
        if source.suffix == ".zip":
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="medseg-import-")))
            unpack(source, place)
        config_path = next(iter(sorted(place.rglob("configs/inference.json"))), None)
        if config_path is None:
            raise UserError(
                "holds no configs/inference.json", str(source), "give the folder or zip of a MONAI bundle"
            )
        root = config_path.parent.parent
        config, about = read_json(config_path), read_json(root / "configs" / "metadata.json")
        system, plan, turned = described(config, about, str(config_path))
        weights = next((root / name for name in WEIGHTS if (root / name).is_file()), None)
        if weights is None:
            raise UserError(f"holds none of {', '.join(WEIGHTS)}", str(source))
        foreign = read_foreign(weights, trust)
    net = build_system(system, plan)
    _load(net, foreign.tensors, str(source))
    extra = {
        "origin": {
            "program": "MONAI bundle",
            "version": about.get("version"),
            "description": about.get("description"),
        },
        "licence": str(about.get("copyright") or "not stated: the terms of whoever made the bundle apply"),
        "intended_use": str(about.get("intended_use") or "Research; see the bundle's own documents."),
        **({"frame": {"turned": turned}} if turned else {}),
    }
    save_model(Path(target), net.eval(), system=system, plan=plan, extra=extra)
    return verify_model(Path(target))


def described(
    config: Mapping[str, Any], about: Mapping[str, Any], where: str
) -> tuple[System, Plan, list[int]]:
    """System, plan, and the RAS axes that run the other way, of a bundle's inference.json and metadata.json."""
    given = config.get("network_def")
    name = str(given.get("_target_", "")).rpartition(".")[2] if isinstance(given, dict) else ""
    if not isinstance(given, dict) or name not in NETWORKS:
        raise UserError(
            f"its network {name or given!r} is not in the table", where, f"known are {', '.join(NETWORKS)}"
        )
    values = {
        key: _value(config, item, f"network_def.{key}", where)
        for key, item in given.items()
        if key != "_target_"
    }
    slug, arguments = NETWORKS[name]
    steps = _steps(config, where)
    turned = _turned(steps, where)
    inferer = config.get("inferer", {})
    patch = [int(n) for n in _value(config, inferer.get("roi_size"), "inferer.roi_size", where)]
    names = about.get("network_data_format", {}).get("outputs", {}).get("pred", {}).get("channel_def", {})
    channels, classes = int(values["in_channels"]), int(values["out_channels"])
    labels = [str(names.get(str(n), f"class {n}")) for n in range(1, classes)]
    spacing = steps.get("Spacingd", {}).get("pixdim")
    plan = Plan(
        dims=3,
        in_channels=channels,
        classes=[
            ClassInfo(label, n, default_colour(n - 1)).as_json() for n, label in enumerate(labels, start=1)
        ],
        out_channels=classes,
        spacing_mm=None if spacing is None else [float(s) for s in spacing],
        intensity=[_intensity(steps, where)] * channels,
        image_order=1,
        patch_size=patch,
        batch_size=1,
    )
    if plan.spacing_mm is None:
        raise UserError("its steps have no Spacingd, so the network's grid is not known", where, HINT)
    return System(name=slug, arguments=arguments(values)), plan, turned


def _value(config: Mapping[str, Any], value: Any, key: str, where: str, depth: int = 0) -> Any:
    """A plain value; a reference `@name` is followed, an expression `$...` is refused."""
    if isinstance(value, str) and value.startswith("@") and value[1:] in config and depth < 8:
        return _value(config, config[value[1:]], key, where, depth + 1)
    if isinstance(value, str) and value.startswith(("$", "@", "%")):
        raise UserError(f"{key} is {value!r}, an expression", where, HINT)
    if value is None:
        raise UserError(f"{key} is missing", where, HINT)
    return (
        [_value(config, item, key, where, depth + 1) for item in value] if isinstance(value, list) else value
    )


def _steps(config: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Name of a step -> its plain values."""
    listed = config.get("preprocessing", {})
    found = {}
    for step in listed.get("transforms", []) if isinstance(listed, dict) else []:
        name = str(step.get("_target_", "")).rpartition(".")[2]
        found[name] = {k: _value(config, v, f"{name}.{k}", where) for k, v in step.items() if k != "_target_"}
    known = {"LoadImaged", "EnsureChannelFirstd", "Orientationd", "Spacingd", "ScaleIntensityRanged", "EnsureTyped",
             "NormalizeIntensityd", "CastToTyped"}  # fmt: skip
    strange = sorted(set(found) - known)
    if strange:
        raise UserError(f"its steps {', '.join(strange)} have no counterpart", where, HINT)
    return found


def _turned(steps: Mapping[str, Mapping[str, Any]], where: str) -> list[int]:
    code = str(steps.get("Orientationd", {}).get("axcodes", ""))
    letters = [LETTERS.get(letter, (9, False)) for letter in code]
    if [axis for axis, _ in letters] != [0, 1, 2]:
        raise UserError(
            f"its images are turned to {code or 'nothing in particular'}; right-left, front-back, top-bottom is read",
            where,
            "without a known orientation left and right could be exchanged",
        )
    return [axis for axis, other_way in letters if other_way]


def _intensity(steps: Mapping[str, Mapping[str, Any]], where: str) -> IntensityPlan:
    span = steps.get("ScaleIntensityRanged")
    if span is not None:
        width = (span["a_max"] - span["a_min"]) / (span["b_max"] - span["b_min"])
        if not span.get("clip"):
            raise UserError("its ScaleIntensityRanged does not clip", where, HINT)
        return IntensityPlan(scheme="window", low=span["a_min"], high=span["a_max"],
                             shift=span["a_min"] - span["b_min"] * width, scale=width)  # fmt: skip
    normal = steps.get("NormalizeIntensityd")
    if normal is None:
        return IntensityPlan(scheme="none")
    if normal.get("nonzero"):
        return IntensityPlan(scheme="zscore_mask")
    return IntensityPlan(scheme="zscore")


def _load(net: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copies the weights; layers that the catalog's adaptation leaves out are left out here too."""
    own = net.state_dict()
    given = {f"net.{name.removeprefix('module.')}": value for name, value in tensors.items()}
    missing = [name for name in own if name not in given or given[name].shape != own[name].shape]
    strange = [name for name in given if name not in own and "cross_attn" not in name]
    if missing or strange:
        raise UserError(
            f"{len(missing) + len(strange)} of its {len(own)} weights do not fit the network of its configuration",
            where, "", [*missing[:3], *strange[:3]],
        )  # fmt: skip
    net.load_state_dict({name: given[name] for name in own})
