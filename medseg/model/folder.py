"""The model folder: save, verify, load, copy.

`model.safetensors` holds weights and nothing else, `model.json` all that is needed to use them. A network is built
from the catalog by its name and then given its weights; nothing that is read is ever unpickled or evaluated.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.config import Plan, System
from medseg.core.atomic import write_json, writing_failed
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo
from medseg.model import cascade
from medseg.model.facts import (
    FACTS_FILE,
    WEIGHTS_FILE,
    load_facts,
    make_facts,
    read_classes,
    read_plan,
    read_system,
    require_network,
)
from medseg.zoo.weightless import weightless

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "Model",
    "build_system",
    "copy_model",
    "load_facts",
    "load_model",
    "read_weights",
    "save_model",
    "verify_model",
]


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model.

    net: the network in eval mode, or None; classical: the classical method, or None; exactly one of them is there.
    plan, classes, system: as trained. hash: what results name. facts: model.json. previous: a cascade's first stage.
    parts: of an ensemble whose members see different windows one model a configuration, to be averaged on the case's
    grid; empty for all others.
    """

    net: nn.Module | None
    classical: Any | None
    plan: Plan
    classes: tuple[ClassInfo, ...]
    system: System
    hash: str
    facts: Mapping[str, Any]
    previous: Model | None = None
    parts: tuple[Model, ...] = ()


def save_model(
    folder: Path,
    net: nn.Module | Mapping[str, Any] | None,
    *,
    system: System,
    plan: Plan,
    scores: Mapping[str, Any] | None = None,
    data_hash: str = "",
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Writes a model folder, whole or not at all; an older one at the same place is replaced. Returns the model hash.

    net: the network; for a classical system what it learnt, as numpy arrays, or None. scores: validation means with n.
    extra: further facts, licence and intended_use among them.
    """
    with new_folder(Path(folder)) as part:
        learnt = isinstance(net, Mapping)
        write = _write_arrays if learnt else _write_weights
        weights = None if net is None or (learnt and not net) else write(net, part / WEIGHTS_FILE)
        facts = make_facts(
            kind="classical" if net is None or learnt else "network",
            system=_system_facts(system, plan),
            plan=plan,
            weights=weights,
            scores=scores or {},
            data_hash=data_hash,
            extra=extra or {},
        )
        write_json(part / FACTS_FILE, json.loads(json.dumps(facts, allow_nan=False)))
    return str(facts["hash"])


def verify_model(folder: Path) -> dict[str, Any]:
    """Checks a model folder without building anything: files, links, format, hashes. Returns model.json's facts.

    Raises UserError that says what was expected and what was found.
    """
    folder = Path(folder)
    facts = load_facts(folder)
    if facts["kind"] == "ensemble":
        from medseg.model.ensemble import verify_members

        verify_members(folder, facts)
        return facts
    check_files(folder, {*_files_of(facts), *cascade.folders_of(facts)})
    cascade.verify_previous(folder, facts)
    if facts["weights"] is not None:
        _check_weights(folder / WEIGHTS_FILE, facts["weights"])
    return facts


def load_model(folder: Path, device: str = "cpu") -> Model:
    """Verifies the folder, builds the system from the catalog and maps its weights into it.

    The weights are mapped from the file, not copied, as long as `device` is the CPU. Raises UserError for a folder
    that cannot be trusted and for weights that do not fit the system.
    """
    folder = Path(folder)
    facts = verify_model(folder)
    where = str(folder / FACTS_FILE)
    if facts["kind"] == "ensemble":
        from medseg.model.ensemble import assemble, member_folders

        return assemble(facts, member_folders(folder, facts), device, where)
    plan, system = read_plan(facts, where), read_system(facts, where)
    if facts["kind"] == "classical":
        net, classical = None, _build(facts, plan, system)
        if facts["weights"] is not None:
            names = {number: info.name for number, info in enumerate(read_classes(facts, where), 1)}
            classical.restore(_read_arrays(folder / WEIGHTS_FILE), names)
    else:
        from medseg.model.turned import in_frame

        net, classical = in_frame(facts, _with_weights(facts, plan, system, folder / WEIGHTS_FILE)), None
        net = net.to(device).eval()
    classes, previous = read_classes(facts, where), cascade.load_previous(folder, facts, device)
    return Model(net, classical, plan, classes, system, facts["hash"], facts, previous)


def build_system(system: System, plan: Plan) -> Any:
    """The system of a plan, freshly made: a network with random weights or a classical method.

    What the plan decided about the topology counts, unless the pipeline file says otherwise. `slices` among it is the
    axis across which a 2D network is given the slices of volumes.
    """
    from medseg.zoo.build import build

    arguments = {**plan.topology, **system.arguments}
    axis = arguments.pop("slices", None)
    channels = {"in_channels": plan.in_channels, "classes": plan.out_channels}
    dims = plan.dims if axis is None else 2
    found = build(system.name, dims=dims, size=system.size, **channels, **arguments)
    if axis is None:
        return found
    from medseg.model.sliced import sliced

    return sliced(found, axis, system.name)


def copy_model(source: Path, target: Path) -> dict[str, Any]:
    """Copies a verified model folder and returns its facts."""
    facts = verify_model(source)
    if facts["kind"] == "ensemble":
        from medseg.model.ensemble import copy_ensemble

        copy_ensemble(Path(source), facts, Path(target))
        return facts
    with new_folder(Path(target)) as part:
        shutil.copytree(source, part, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
    return facts


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a verified network's folder, mapped from the file."""
    facts = verify_model(folder)
    require_network(facts, Path(folder))
    return _map_weights(Path(folder) / WEIGHTS_FILE)


def _system_facts(system: System, plan: Plan) -> dict[str, Any]:
    from medseg.zoo.build import find

    card = find(system.name)
    unusual = {"configuration": system.configuration} if system.configuration != "full" else {}
    return {
        **unusual,
        "name": card.name,
        "size": system.size,
        "arguments": dict(system.arguments),
        "size_arguments": dict(card.sizes.get(system.size, {})),
        "package": card.at.partition(":")[0].partition(".")[0],
        "dims": plan.dims,
        "in_channels": plan.in_channels,
        "out_channels": plan.out_channels,
    }


def _files_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The files that a model folder which is no ensemble holds."""
    return (FACTS_FILE,) if facts["weights"] is None else (FACTS_FILE, WEIGHTS_FILE)


def _write_arrays(arrays: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Writes what a classical method learnt: safetensors like a network's weights."""
    import numpy as np
    from safetensors.numpy import save_file

    found = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(found, str(path))
    numbers = sum(int(array.size) for array in found.values())
    return {
        "file": WEIGHTS_FILE,
        "sha256": _sha256(path),
        "bytes": path.stat().st_size,
        "parameters": numbers,
    }


def _read_arrays(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(str(path)))


def _write_weights(net: nn.Module, path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    seen: set[int] = set()
    tensors = {}
    for name, value in net.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        shared = tensor.untyped_storage().data_ptr() in seen
        seen.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor.clone() if shared else tensor
    try:
        save_file(tensors, str(path))
    except SafetensorError as err:
        raise UserError(
            f"the weights cannot be written ({err})",
            str(path.parent.parent),
            "free some space and use --resume",
        ) from err
    return {
        "file": WEIGHTS_FILE,
        "sha256": _sha256(path),
        "bytes": path.stat().st_size,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
    }


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target`; on success it takes the target's place, on failure it is removed."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-model-", dir=target.parent))
    except OSError as err:
        raise writing_failed(err, target) from err
    old = part.with_name(part.name + "-old")
    try:
        yield part
        part.chmod(0o755)
        if target.exists():
            target.rename(old)
        part.rename(target)
    except OSError as err:
        raise writing_failed(err, target) from err
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_files(folder: Path, expected: set[str]) -> None:
    """Raises UserError for links, and for anything in the folder that is not expected there."""
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink():
            raise UserError(
                f"expected a model folder without links, found the link {entry.name}",
                str(folder),
                "copy the file itself into the folder",
            )
        if entry.name not in expected and not (entry.name.startswith(".") and entry.is_file()):
            raise UserError(
                f"expected only {' and '.join(sorted(expected))}, found {entry.name} as well",
                str(folder),
                "move it elsewhere: a model folder holds nothing that medseg did not write",
            )
    for name in sorted(expected):
        if not ((folder / name).is_file() or (folder / name).is_dir()):  # nor a pipe, which never ends
            raise UserError(
                f"expected {name}, found no such file", str(folder), "the folder is incomplete; copy it again"
            )


def _check_weights(path: Path, stored: Mapping[str, Any]) -> None:
    from safetensors import SafetensorError, safe_open

    found = _sha256(path)
    if found != stored.get("sha256"):
        raise UserError(
            f"expected weights with sha256 {str(stored.get('sha256'))[:12]}..., found {found[:12]}...",
            str(path),
            "the file is damaged or was exchanged; copy the model folder again",
        )
    try:
        with safe_open(str(path), framework="numpy") as tensors:
            tensors.keys()
    except (SafetensorError, OSError) as err:
        raise UserError(
            f"expected a safetensors file, found something else ({err})",
            str(path),
            "only safetensors are read; other formats could run code",
        ) from err


def _with_weights(facts: Mapping[str, Any], plan: Plan, system: System, path: Path) -> nn.Module:
    weights = _map_weights(path)
    net: nn.Module | None = None
    try:
        with weightless():
            net = _build(facts, plan, system)
    except (NotImplementedError, RuntimeError):
        net = None  # its constructor computes with values, so it cannot be built without memory
    if net is not None:
        _check_fit(net, weights, path)
        net.load_state_dict(weights, assign=True)
        if not any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers())):
            return net
    net = _build(facts, plan, system)
    _check_fit(net, weights, path)
    net.load_state_dict(weights)
    return net


def _build(facts: Mapping[str, Any], plan: Plan, system: System) -> Any:
    from medseg.zoo.build import find

    package = str(facts["system"].get("package", "medseg"))
    try:
        find(system.name)
    except UserError as err:
        if package == "medseg":
            raise
        raise UserError(
            f"this model needs the system {system.name} of the package {package}, which is not installed",
            FACTS_FILE,
            f"install {package} beside medseg",
        ) from err
    return build_system(system, plan)


def _check_fit(net: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    own = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    faults = [f"expected {name} {own[name]}, found none" for name in sorted(own.keys() - given.keys())]
    faults += [f"expected no {name}, found {given[name]}" for name in sorted(given.keys() - own.keys())]
    faults += [
        f"expected {name} {own[name]}, found {given[name]}"
        for name in sorted(own.keys() & given.keys())
        if own[name] != given[name]
    ]
    if faults:
        raise UserError(
            f"the weights do not fit the system: {len(faults)} of {len(own)} tensors differ",
            str(path),
            "the system changed since this model was trained; train again, or use the medseg version in model.json",
            faults[:5],
        )


def _map_weights(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(str(path), device="cpu")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
