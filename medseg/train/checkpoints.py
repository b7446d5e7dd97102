"""One checkpoint, whole or absent: tensors and the rest in a single safetensors file; nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.atomic import atomic_path, write_text
from medseg.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

FILE = "last.safetensors"
FINISHED = "finished"
FORMAT = 2


def save_checkpoint(
    folder: Path,
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: Mapping[str, Tensor] | None,
    facts: Mapping[str, Any],
    procedure: Mapping[str, Tensor] | None = None,
) -> Path:
    """Writes weights, optimiser state, averaged weights, what the procedure keeps, and `facts` (plain JSON values) as
    FOLDER/last.safetensors."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {f"net/{name}": value for name, value in net.state_dict().items()}
    plain: dict[str, Any] = {}
    for index, entries in optimiser.state_dict()["state"].items():
        for key, value in entries.items():
            if hasattr(value, "detach"):
                tensors[f"optimiser/{index}/{key}"] = value
            elif value is not None:
                plain[f"{index}/{key}"] = value
    tensors |= {f"average/{name}": value for name, value in (average or {}).items()}
    tensors |= {f"procedure/{name}": value for name, value in (procedure or {}).items()}
    flat = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    about = {"format": str(FORMAT), "facts": json.dumps(dict(facts)), "optimiser": json.dumps(plain)}
    target = folder / FILE
    with atomic_path(target, ".safetensors") as part:
        try:
            save_file(flat, str(part), metadata=about)
        except SafetensorError as err:
            raise UserError(
                f"the checkpoint cannot be written ({err})", str(folder), "free some space and use --resume"
            ) from err
    (folder / FINISHED).unlink(missing_ok=True)
    return target


def mark_finished(folder: Path) -> None:
    """Says that the model of this checkpoint is written: the training is over, unless it is made longer."""
    if (folder / FILE).is_file():
        write_text(folder / FINISHED, "")


def is_finished(folder: Path) -> bool:
    """Whether the model of this checkpoint is written."""
    return (folder / FINISHED).is_file()


def read_facts(folder: Path) -> dict[str, Any] | None:
    """The facts of the checkpoint, or None when there is none that can be read."""
    from safetensors import SafetensorError, safe_open

    if not (folder / FILE).is_file():
        return None
    try:
        with safe_open(str(folder / FILE), framework="pt") as stored:
            about = stored.metadata() or {}
    except (SafetensorError, OSError):
        return None
    return json.loads(about["facts"]) if about.get("format") == str(FORMAT) else None


def restore_checkpoint(
    folder: Path,
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: dict[str, Tensor] | None,
) -> dict[str, Tensor]:
    """Puts the stored weights, optimiser state and averages back, bit by bit; returns what the procedure kept."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    tensors = load_file(str(folder / FILE))
    with safe_open(str(folder / FILE), framework="pt") as stored:
        plain = json.loads((stored.metadata() or {})["optimiser"])
    net.load_state_dict(_under("net/", tensors))
    state: dict[int, dict[str, Any]] = {}
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    for name, value in (*_under("optimiser/", tensors).items(), *plain.items()):
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = _laid_out(value, weights[int(index)])
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    for name, value in _under("average/", tensors).items():
        if average is not None:
            average[name].copy_(value)
    return {name: value.clone() for name, value in _under("procedure/", tensors).items()}


def _laid_out(value: Any, weight: Tensor) -> Any:
    """A copy, since the optimiser changes its state in place and the file is mapped, in memory in the weight's order:
    files keep none, and fused optimisers take weight and state side by side as they lie."""
    if not hasattr(value, "shape"):
        return value
    if value.shape != weight.shape:
        return value.clone()
    import torch

    return torch.empty_like(weight, dtype=value.dtype, device=value.device).copy_(value)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
