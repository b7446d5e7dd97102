"""Starting from another model's weights: a model folder, or a checkpoint of nnU-Net."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medseg.config import Plan, System
from medseg.core.errors import UserError
from medseg.model.folder import build_system, load_facts, read_weights

if TYPE_CHECKING:
    from torch import Tensor, nn


class Taken(NamedTuple):
    """Names of the tensors that were taken over, and of the network's that were not, with the reason."""

    taken: tuple[str, ...]
    left: dict[str, str]

    @property
    def line(self) -> str:
        """One sentence for people."""
        total = len(self.taken) + len(self.left)
        text = f"{len(self.taken)} of {total} weight tensors taken from train.start_from"
        listed = [f"{name} ({reason})" for name, reason in list(self.left.items())[:4]]
        more = f" and {len(self.left) - 4} more" if len(self.left) > 4 else ""
        return f"{text}; new: {', '.join(listed)}{more}" if listed else text


def take_weights(net: nn.Module, source: Path, system: System, plan: Plan) -> Taken:
    """Copies weights into `net` where name and shape agree; system, plan: what `net` was built from.

    The last layers start anew when the classes are others than the source's, even where their number is the same:
    their channels would mean other structures. Raises UserError when the source cannot be trusted or nothing agrees.
    """
    source = Path(source)
    given, reason = weights_of_source(source, system, plan)
    anew = head_tensors(system, plan) if reason else set()
    own = net.state_dict()
    left = {}
    for name, value in own.items():
        if name in anew:
            left[name] = reason
        elif name not in given:
            left[name] = "not there"
        elif given[name].shape != value.shape:
            left[name] = f"shape {_shape(given[name])}, needed {_shape(value)}"
    taken = tuple(name for name in own if name not in left)
    if not taken:
        raise UserError(
            f"not one of its {len(given)} weight tensors fits this system",
            str(source),
            "train.start_from wants a model of the same system",
        )
    net.load_state_dict({**own, **{name: given[name] for name in taken}})
    return Taken(taken, left)


def weights_of_source(source: Path, system: System, plan: Plan) -> tuple[Mapping[str, Tensor], str]:
    """The weights, and why the last layers must start anew ("" when they need not)."""
    if source.suffix == ".pth" or (source.is_file() and source.suffix != ".json"):
        from medseg.train.nnunet_weights import read_nnunet

        # Its file does not say what the channels mean; equal numbers of classes are taken for equal classes.
        return read_nnunet(source, system.name), ""
    given = read_weights(source)
    before = _meaning(load_facts(source)["plan"])
    now = _meaning(plan.model_dump(mode="json"))
    if before == now:
        return given, ""
    names = ", ".join(before[0][:6]) + (" ..." if len(before[0]) > 6 else "")
    return given, f"other classes, the given model has {names}"


def _meaning(plan: Mapping[str, object]) -> tuple[list[str], bool, bool]:
    """What the channels of the logits stand for."""
    names = [str(entry["name"]) for entry in plan["classes"]]  # type: ignore[index, attr-defined]
    return names, bool(plan["overlapping"]), bool(plan["background"])


def head_tensors(system: System, plan: Plan) -> set[str]:
    """The names of the tensors whose shape depends on the number of classes, found by building with one class more."""
    import torch

    shapes = []
    for classes in (plan.out_channels, plan.out_channels + 1):
        try:
            with torch.device("meta"):
                net = build_system(system, plan.model_copy(update={"out_channels": classes}))
        except (NotImplementedError, RuntimeError):
            # its constructor computes with values, so it cannot be built without memory
            net = build_system(system, plan.model_copy(update={"out_channels": classes}))
        shapes.append({name: tuple(value.shape) for name, value in net.state_dict().items()})
    return {name for name, shape in shapes[0].items() if shapes[1].get(name) != shape}


def _shape(value: object) -> str:
    return "x".join(str(n) for n in value.shape) or "number"  # type: ignore[attr-defined]
