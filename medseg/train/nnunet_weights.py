"""Weights of nnU-Net's checkpoints (`checkpoint_final.pth`) under the names of this package's two networks.

nnU-Net stores every convolution and norm twice (once in `all_modules`) and the encoder a second time inside the
decoder; the names below are those of dynamic-network-architectures 0.4. It works on (z, y, x), so kernels are turned to
this package's (x, y, z). Which way its images were mirrored against RAS+ such a file does not say: as a start that does
not matter much; `medseg model import`, which is told, makes a model that predicts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.core.errors import UserError
from medseg.model.foreign import read_foreign

if TYPE_CHECKING:
    from torch import Tensor

PART = {"conv": "0", "norm": "1"}
SECOND_NAMES = (r"(^|\.)all_modules\.", r"^decoder\.encoder\.")
"""Names under which nnU-Net keeps a tensor that it also has under its first name."""

RULES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "nnunet-plain": (
        (r"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.(conv|norm)\.(\w+)", "encoder.{0}.{1}.{part}.{3}"),
    ),
    "nnunet-resenc": (
        (r"encoder\.stem\.convs\.0\.(conv|norm)\.(\w+)", "stem.{part}.{1}"),
        (r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.conv1\.(conv|norm)\.(\w+)", "encoder.{0}.{1}.path.0.{part}.{3}"),
        (r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.conv2\.(conv|norm)\.(\w+)", "encoder.{0}.{1}.path.1.{part}.{3}"),
        (r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.(\d+)\.(conv|norm)\.(\w+)", "encoder.{0}.{1}.skip.{2}.{part}.{4}"),
    ),
}  # fmt: skip
DECODER = (
    (r"decoder\.transpconvs\.(\d+)\.(\w+)", "up.{0}.{1}"),
    (r"decoder\.stages\.(\d+)\.convs\.(\d+)\.(conv|norm)\.(\w+)", "decoder.{0}.{1}.{part}.{3}"),
    (r"decoder\.seg_layers\.(\d+)\.(\w+)", "heads.{0}.{1}"),
)


def read_nnunet(path: Path, system: str) -> dict[str, Tensor]:
    """The weights of a checkpoint under the names of nnunet-plain or nnunet-resenc.

    Raises UserError for other systems, for files that are no such checkpoint, and for tensors of unknown names.
    """
    path = Path(path)
    require_known(system)
    if not path.is_file():
        raise UserError(
            "no such checkpoint", str(path), "give the path of a checkpoint_final.pth, or a model folder"
        )
    return renamed(read_foreign(path).tensors, system, str(path))


def require_known(system: str) -> None:
    """Raises UserError for systems that nnU-Net's weights do not fit."""
    if system not in RULES:
        raise UserError(
            f"weights of nnU-Net fit {' and '.join(RULES)}, not {system}",
            "train.start_from, system.name",
            f"set system.name: {next(iter(RULES))}, or start from a model folder",
        )


def renamed(weights: Mapping[str, Tensor], system: str, where: str) -> dict[str, Tensor]:
    """The tensors under this package's names; what nnU-Net stores twice is taken once."""
    found, unknown = {}, []
    for name, value in weights.items():
        bare = name.removeprefix("_orig_mod.").removeprefix("module.")
        if any(re.search(pattern, bare) for pattern in SECOND_NAMES):
            continue
        ours = _name_of(bare, system)
        if ours is None:
            unknown.append(bare)
        else:
            found[ours] = turned(value)
    if unknown:
        other = next((s for s in RULES if s != system and any(_name_of(name, s) for name in unknown)), None)
        raise UserError(
            f"{len(unknown)} of its {len(weights)} tensors are not those of {system}: {', '.join(unknown[:3])}",
            where,
            f"this is a checkpoint of {other}: set system.name"
            if other
            else "only nnU-Net's own two networks are read",
        )
    return found


def _name_of(name: str, system: str) -> str | None:
    for pattern, ours in (*RULES[system], *DECODER):
        match = re.fullmatch(pattern, name)
        if match:
            part = next((PART[group] for group in match.groups() if group in PART), "")
            return ours.format(*match.groups(), part=part)
    return None


def turned(value: Tensor) -> Tensor:
    """A kernel (o, i, *K) with its spatial axes in the opposite order; everything else as it is."""
    return value.permute(0, 1, *range(value.ndim - 1, 1, -1)).contiguous() if value.ndim > 3 else value
