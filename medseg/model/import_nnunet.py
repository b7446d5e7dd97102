"""nnU-Net v2 models as model folders: the plan, the network's topology and its weights.

nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z) sees arrays in the order (z, y, x) of the file's own axes,
permuted by its plan's `transpose_forward`, and never turns them by the header. medseg's networks see RAS+. Kernels are
therefore permuted (which is exact), and axes that run the other way are turned before and after the network
(`model.turned`). Which way they ran only the person knows who has the training images: their orientation has to be
said, since a guess could exchange left and right without a word.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.config import IntensityPlan, Plan, System
from medseg.core.atomic import read_json
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo, default_colour
from medseg.model.foreign import Foreign, read_foreign

if TYPE_CHECKING:
    from torch import Tensor, nn

LETTERS = {"R": (0, False), "L": (0, True), "A": (1, False), "P": (1, True), "S": (2, False), "I": (2, True)}
"""Letter of an axis code -> RAS axis, and whether it runs the other way."""

NETWORKS = {
    "PlainConvUNet": "nnunet-plain",
    "ResidualEncoderUNet": "nnunet-resenc",
    "PlainConvEncoder": "nnunet-plain",
}


@dataclass(frozen=True)
class Axes:
    """order: for each RAS axis the axis of nnU-Net's arrays. turned: RAS axes that run the other way."""

    order: tuple[int, ...]
    turned: tuple[int, ...]

    def sorted(self, values: Sequence[Any]) -> list[Any]:
        """Values of nnU-Net's axes in the order of the RAS axes."""
        return [values[axis] for axis in self.order]


@dataclass(frozen=True)
class Imported:
    """A model of nnU-Net in medseg's words. net: in eval mode, without the turning of axes."""

    net: nn.Module
    system: System
    plan: Plan
    axes: Axes
    facts: Mapping[str, Any]


def import_nnunet(
    source: Path,
    target: Path,
    *,
    orientation: str = "",
    configuration: str = "",
    fold: str = "",
    trust: bool = False,
) -> dict[str, Any]:
    """Writes the model folder `target` from an nnU-Net checkpoint, its folder, or a zip of it; returns its facts.

    orientation: axis codes of the training images (RAS, LPS ...), needed for volumes. configuration, fold: which of
    several. Raises UserError for what is missing or cannot be carried over.
    """
    from medseg.model.folder import save_model

    with ExitStack() as stack:
        place = _unpacked(Path(source), stack)
        found = read_nnunet(place, orientation, configuration, fold, trust)
    extra = {
        "origin": dict(found.facts),
        "licence": "not stated: the terms of whoever trained it with nnU-Net apply",
        **({"frame": {"turned": list(found.axes.turned)}} if found.axes.turned else {}),
    }
    save_model(Path(target), found.net, system=found.system, plan=found.plan, extra=extra)
    from medseg.model.folder import verify_model

    return verify_model(Path(target))


def read_nnunet(
    place: Path, orientation: str = "", configuration: str = "", fold: str = "", trust: bool = False
) -> Imported:
    """A checkpoint (or the folder that holds it) as network, system and plan. Raises UserError as `import_nnunet`."""
    checkpoint = _checkpoint(Path(place), configuration, fold)
    foreign = read_foreign(checkpoint, trust)
    plans, dataset = _descriptions(checkpoint, foreign)
    name = str(foreign.facts.get("init_args", {}).get("configuration") or configuration or _named(checkpoint))
    chosen = _configuration(plans, name, checkpoint)
    axes = _axes(chosen, plans, orientation, checkpoint)
    plan, system = _plan(chosen, plans, dataset, axes, checkpoint, foreign)
    from medseg.model.folder import build_system

    net = build_system(system, plan)
    net.load_state_dict(translated(foreign.tensors, net, axes, str(checkpoint)))
    facts = {"program": "nnU-Net v2", "configuration": name, "dataset": plans.get("dataset_name"),
             "trainer": foreign.facts.get("trainer_name"), "epochs": foreign.facts.get("current_epoch"),
             "orientation": orientation.upper(), "file": checkpoint.name}  # fmt: skip
    return Imported(net.eval(), system, plan, axes, facts)


# --- files --------------------------------------------------------------------------------------------------------


def _unpacked(source: Path, stack: ExitStack) -> Path:
    if source.suffix != ".zip":
        return source
    from medseg.model.archive import unpack

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="medseg-import-")))
    unpack(source, folder)
    return folder


def _checkpoint(place: Path, configuration: str, fold: str) -> Path:
    """The one checkpoint below a folder, or the file itself."""
    if place.is_file():
        return place
    if not place.is_dir():
        raise UserError(
            "no such file or folder", str(place), "give checkpoint_final.pth or nnU-Net's results folder"
        )
    found = sorted(place.rglob("checkpoint_final.pth"))
    if configuration:
        found = [path for path in found if _named(path) == configuration]
    if fold:
        found = [path for path in found if path.parent.name == f"fold_{fold}"]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError("holds no checkpoint_final.pth of what is asked for", str(place))
    raise UserError(
        f"holds {len(found)} checkpoints",
        str(place),
        "say which one with --configuration and --fold, import each, and give all to `medseg predict` as an ensemble",
        [str(path.relative_to(place)) for path in found[:10]],
    )


def _named(checkpoint: Path) -> str:
    """The configuration that nnU-Net writes into the folder's name: TRAINER__PLANS__CONFIGURATION."""
    return checkpoint.parent.parent.name.rpartition("__")[2]


def _descriptions(checkpoint: Path, foreign: Foreign) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """plans.json and dataset.json, from the checkpoint itself or from beside it."""
    inside = foreign.facts.get("init_args") or {}
    found = []
    for key, name in (("plans", "plans.json"), ("dataset_json", "dataset.json")):
        value = inside.get(key) if isinstance(inside, dict) else None
        places = [checkpoint.parent / name, checkpoint.parent.parent / name]
        file = next((path for path in places if path.is_file()), None)
        value = read_json(file) if file is not None else value
        if not isinstance(value, dict):
            raise UserError(
                f"{name} is missing", str(checkpoint), f"put {name} of nnU-Net's results folder beside it"
            )
        found.append(value)
    return found[0], found[1]


def _configuration(plans: Mapping[str, Any], name: str, where: Path) -> dict[str, Any]:
    """A configuration with what it inherits."""
    known = plans.get("configurations", {})
    if name not in known:
        raise UserError(
            f"the plans have no configuration {name!r}",
            str(where),
            f"say --configuration: {', '.join(known)}",
        )
    chain, current = [], name
    while current:
        if len(chain) > 10 or current not in known:
            raise UserError(
                f"the configuration {name} inherits from {current!r}, which is not there", str(where)
            )
        chain.append(known[current])
        current = known[current].get("inherits_from", "")
    merged: dict[str, Any] = {}
    for part in reversed(chain):
        merged.update(part)
    if merged.get("previous_stage"):
        raise UserError(
            f"{name} is the second stage of a cascade and needs the first one's labels",
            str(where),
            "import 3d_fullres or 3d_lowres",
        )
    return merged


# --- axes ---------------------------------------------------------------------------------------------------------


def _axes(chosen: Mapping[str, Any], plans: Mapping[str, Any], orientation: str, where: Path) -> Axes:
    dims = len(chosen["patch_size"])
    if dims == 2:
        raise UserError(
            "is a 2D configuration of nnU-Net, which predicts volumes slice by slice",
            str(where),
            "import 3d_fullres; 2D models are only carried over as weights for `train.from`",
        )
    code = orientation.upper()
    if sorted(LETTERS[letter][0] for letter in code if letter in LETTERS) != [0, 1, 2] or len(code) != 3:
        raise UserError(
            f"the orientation of its training images is needed, found {orientation!r}",
            str(where),
            "say e.g. --orientation LPS: `medseg check FOLDER` prints it for a folder of images; nnU-Net does not turn "
            "images by their headers, so a wrong one would exchange left and right",
        )
    forward = [int(axis) for axis in plans.get("transpose_forward", (0, 1, 2))]
    order, turned = [0, 0, 0], []
    for axis, stored in enumerate(forward):
        # nnU-Net's arrays have the file's axes backwards: array axis 0 is the file's third.
        ras, other_way = LETTERS[code[2 - stored]]
        order[ras] = axis
        if other_way:
            turned.append(ras)
    return Axes(tuple(order), tuple(sorted(turned)))


# --- the plan -----------------------------------------------------------------------------------------------------


def _plan(chosen: Mapping[str, Any], plans: Mapping[str, Any], dataset: Mapping[str, Any], axes: Axes, where: Path,
          foreign: Foreign) -> tuple[Plan, System]:  # fmt: skip
    channels = dataset.get("channel_names") or dataset.get("modality") or {}
    classes, overlapping = _classes(dataset, where)
    name, topology = _topology(chosen, axes, where)
    mirrored = foreign.facts.get("inference_allowed_mirroring_axes") or []
    plan = Plan(
        dims=3,
        in_channels=len(channels),
        channels=_names(channels),
        classes=[info.as_json() for info in classes],
        overlapping=overlapping,
        out_channels=len(classes) + (not overlapping),
        background=not overlapping,
        spacing_mm=[float(s) for s in axes.sorted(chosen["spacing"])],
        intensity=_intensity(chosen, plans, len(channels), where),
        crop="nonzero",
        image_order=3,
        patch_size=[int(n) for n in axes.sorted(chosen["patch_size"])],
        batch_size=int(chosen.get("batch_size", 2)),
        topology=topology,
        mirror_axes=sorted(axes.order.index(int(axis)) for axis in mirrored),
        reasons={"topology": "as nnU-Net planned it"},
    )
    return plan, System(name=name)


def _names(channels: Mapping[str, Any]) -> list[str]:
    """The channels' names in their order, where each has one of its own."""
    names = [str(channels[number]) for number in sorted(channels, key=lambda k: (len(k), k))]
    return names if len({name.lower() for name in names}) == len(names) > 1 else []


def _classes(dataset: Mapping[str, Any], where: Path) -> tuple[list[ClassInfo], bool]:
    """Classes in the order of the network's channels, and whether they are regions that overlap."""
    labels = {str(k): v for k, v in dataset.get("labels", {}).items() if k not in ("background", "ignore")}
    if not labels:
        raise UserError("dataset.json names no labels", str(where))
    regions = any(isinstance(value, list) and len(value) > 1 for value in labels.values())
    if not regions:
        pairs = sorted((_single(value), name) for name, value in labels.items())
        if [index for index, _ in pairs] != list(range(1, len(pairs) + 1)):
            raise UserError(f"labels are {[i for i, _ in pairs]}, expected 1, 2, 3 ...", str(where))
    else:
        order = dataset.get("regions_class_order") or []
        if len(order) != len(labels):
            raise UserError(f"{len(labels)} regions have a regions_class_order of {len(order)}", str(where))
        pairs = [(int(index), name) for index, name in zip(order, labels)]
    return [ClassInfo(name, index, default_colour(n)) for n, (index, name) in enumerate(pairs)], regions


def _single(value: Any) -> int:
    return int(value[0] if isinstance(value, list) else value)


def _intensity(
    chosen: Mapping[str, Any], plans: Mapping[str, Any], channels: int, where: Path
) -> list[IntensityPlan]:
    schemes = chosen.get("normalization_schemes", [])
    masks = chosen.get("use_mask_for_norm", [False] * channels)
    known = plans.get("foreground_intensity_properties_per_channel") or plans.get(
        "foreground_intensity_properties_by_modality", {}
    )
    if len(schemes) != channels:
        raise UserError(f"{channels} channels have {len(schemes)} normalisations", str(where))
    return [_scheme(s, bool(m), known.get(str(n), {}), where) for n, (s, m) in enumerate(zip(schemes, masks))]


def _scheme(name: str, masked: bool, figures: Mapping[str, float], where: Path) -> IntensityPlan:
    if name == "CTNormalization":
        return IntensityPlan(scheme="ct", low=figures["percentile_00_5"], high=figures["percentile_99_5"],
                             shift=figures["mean"], scale=max(figures["std"], 1e-8))  # fmt: skip
    plain = {"ZScoreNormalization": "zscore_mask" if masked else "zscore", "NoNormalization": "none"}
    if name in plain:
        return IntensityPlan(scheme=plain[name])  # type: ignore[arg-type]
    if name == "RGBTo01Normalization":
        return IntensityPlan(scheme="rgb", shift=0.0, scale=255.0)
    raise UserError(
        f"its normalisation {name} has no counterpart", str(where), "it can be a start for `train.from`"
    )


def _topology(chosen: Mapping[str, Any], axes: Axes, where: Path) -> tuple[str, dict[str, Any]]:
    """System and arguments, from plans of release 2.5 and later, or of the earlier ones."""
    architecture = chosen.get("architecture")
    if architecture:
        kind = str(architecture["network_class_name"]).rpartition(".")[2]
        given = architecture["arch_kwargs"]
        features, strides, kernels = given["features_per_stage"], given["strides"], given["kernel_sizes"]
        blocks = given.get("n_conv_per_stage", given.get("n_blocks_per_stage"))
        convs = given["n_conv_per_stage_decoder"]
    else:
        kind = str(chosen.get("UNet_class_name", "PlainConvUNet"))
        strides, kernels = chosen["pool_op_kernel_sizes"], chosen["conv_kernel_sizes"]
        base, most = int(chosen["UNet_base_num_features"]), int(chosen["unet_max_num_features"])
        features = [min(most, base * 2**stage) for stage in range(len(strides))]
        blocks, convs = chosen["n_conv_per_stage_encoder"], chosen["n_conv_per_stage_decoder"]
    if kind not in NETWORKS:
        raise UserError(
            f"its network {kind} is not in medseg's catalog", str(where), f"known are {', '.join(NETWORKS)}"
        )
    spread = [[value] * 3 if isinstance(value, int) else list(value) for value in (*strides, *kernels)]
    return NETWORKS[kind], {
        "features_per_stage": [int(n) for n in features],
        "strides": [axes.sorted(stride) for stride in spread[: len(strides)]],
        "kernel_sizes": [axes.sorted(kernel) for kernel in spread[len(strides) :]],
        "blocks_per_stage": blocks,
        "decoder_convs": convs,
        "deep_supervision": True,
    }


# --- the weights --------------------------------------------------------------------------------------------------

RENAMED = (
    (r"encoder\.stages\.(\d+)\.(?:\d+\.)?convs\.(\d+)\.(conv|norm)\.(\w+)", r"encoder.\1.\2.\3.\4"),
    (r"decoder\.stages\.(\d+)\.convs\.(\d+)\.(conv|norm)\.(\w+)", r"decoder.\1.\2.\3.\4"),
    (r"decoder\.transpconvs\.(\d+)\.(\w+)", r"up.\1.\2"),
    (r"decoder\.seg_layers\.(\d+)\.(\w+)", r"heads.\1.\2"),
    (r"encoder\.stem\.convs\.0\.(conv|norm)\.(\w+)", r"stem.\1.\2"),
    (
        r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.conv([12])\.(conv|norm)\.(\w+)",
        r"encoder.\1.\2.path.<\3>.\4.\5",
    ),
    (
        r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.(\d+)\.(conv|norm)\.(\w+)",
        r"encoder.\1.\2.skip.\3.\4.\5",
    ),
)
"""nnU-Net's names -> medseg's; conv and norm are numbered afterwards."""


def new_name(name: str) -> str | None:
    """medseg's name of a weight of nnU-Net; None for those that stand in the file twice."""
    bare = re.sub(r"^(module\.|_orig_mod\.)+", "", name)
    if ".all_modules." in bare or bare.startswith("decoder.encoder."):
        return None
    for pattern, form in RENAMED:
        if re.fullmatch(pattern, bare):
            found = re.sub(pattern, form, bare)
            found = re.sub(r"<(\d)>", lambda match: str(int(match[1]) - 1), found)
            return found.replace(".conv.", ".0.").replace(".norm.", ".1.")
    return bare


def translated(tensors: Mapping[str, Tensor], net: nn.Module, axes: Axes, where: str) -> dict[str, Tensor]:
    """The weights under medseg's names, kernels permuted to RAS+. Raises UserError when they do not fit the network."""
    order = [0, 1, *(2 + axis for axis in axes.order)]
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        ours = new_name(name)
        if ours is not None:
            found[ours] = value.permute(order).contiguous() if value.ndim == 5 else value
    own = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in found.items()}
    if own != given:
        faults = [
            f"expected {n} {own[n]}, found {given.get(n, 'none')}" for n in own if own[n] != given.get(n)
        ]
        faults += [f"expected no {n}, found {given[n]}" for n in given if n not in own]
        raise UserError(
            f"{len(faults)} of its {len(given)} weights do not fit the network of its plans", where,
            "is plans.json the one it was trained with?", faults[:5],
        )  # fmt: skip
    return found
