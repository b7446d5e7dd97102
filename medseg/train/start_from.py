"""Starting from another model's weights: a model folder, or a checkpoint of nnU-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from medseg.config import Plan, System
from medseg.core.errors import UserError
from medseg.model.facts import FACTS_FILE
from medseg.model.folder import build_system, load_facts, read_weights
from medseg.zoo.weightless import weightless

if TYPE_CHECKING:
    from torch import Tensor, nn


class Taken(NamedTuple):
    """Names of the tensors that were taken over, those of the network that were not, with the reason, and what else to say."""

    taken: tuple[str, ...]
    left: dict[str, str]
    note: str = ""

    @property
    def line(self) -> str:
        """One sentence for people."""
        total = len(self.taken) + len(self.left)
        text = f"{len(self.taken)} of {total} weight tensors taken from train.start_from"
        listed = [f"{name} ({reason})" for name, reason in list(self.left.items())[:4]]
        more = f" and {len(self.left) - 4} more" if len(self.left) > 4 else ""
        text = f"{text}; new: {', '.join(listed)}{more}" if listed else text
        return f"{text}; {self.note}" if self.note else text


def source_of(given: str) -> Path:
    """The model folder or checkpoint that `train.start_from` means; a run's folder stands for the model in it."""
    path = Path(given).expanduser()
    inside = path / "model"
    return inside if (inside / FACTS_FILE).is_file() and not (path / FACTS_FILE).exists() else path


def take_weights(net: nn.Module, source: Path, system: System, plan: Plan) -> Taken:
    """Copies weights into `net` where name and shape agree; system, plan: what `net` was built from.

    The last layers start anew when the classes are others than the source's, even where their number is the same:
    their channels would mean other structures. Raises UserError when the source cannot be trusted, when no kernel
    agrees, and when the source reads images of another number of axes.
    """
    given, found = _compared(net, source, system, plan)
    net.load_state_dict({**net.state_dict(), **{name: given[name] for name in found.taken}})
    return found


def compare_weights(net: nn.Module, source: Path, system: System, plan: Plan) -> Taken:
    """What `take_weights` would come to; `net` may be without memory. Raises UserError as it does."""
    return _compared(net, source, system, plan)[1]


def _compared(net: nn.Module, source: Path, system: System, plan: Plan) -> tuple[Mapping[str, Tensor], Taken]:
    given, reason, note = weights_of_source(Path(source), system, plan)
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
    # Norms and biases alone fit by chance: what was learnt lies in the kernels.
    if not any(own[name].ndim > 1 for name in taken):
        raise UserError(
            f"not one kernel of its {len(given)} weight tensors fits this system",
            str(source),
            "train.start_from wants a model of the same system",
        )
    return given, Taken(taken, left, note)


def weights_of_source(source: Path, system: System, plan: Plan) -> tuple[Mapping[str, Tensor], str, str]:
    """The weights, why the last layers must start anew ("" when they need not), and what else to say ("": nothing)."""
    if source.suffix == ".pth" or (source.is_file() and source.suffix != ".json"):
        from medseg.train.nnunet_weights import read_nnunet

        # Its file does not say what the channels mean; equal numbers of classes are taken for equal classes.
        return read_nnunet(source, system.name), "", ""
    given, facts = read_weights(source), load_facts(source)
    before = facts["plan"]
    _require_dims(before, plan, source)
    earlier, now = _meaning(before), _meaning(plan.model_dump(mode="json"))
    note = _other_channels(before.get("channels") or [], plan.channels)
    if earlier == now:
        return given, "", note
    names = ", ".join(earlier[0][:6]) + (" ..." if len(earlier[0]) > 6 else "")
    return given, f"other classes, the given model has {names}", note


def _require_dims(before: Mapping[str, Any], plan: Plan, source: Path) -> None:
    """Raises UserError where kernels of the source have another number of axes than those of the plan."""
    there, here = (
        2 if "slices" in topology else int(dims)
        for dims, topology in ((before["dims"], before.get("topology", {})), (plan.dims, plan.topology))
    )
    if there != here:
        raise UserError(
            f"is a network of {there}D kernels, this one has {here}D kernels",
            str(source),
            f"start from a model of {here}D images",
        )


def _other_channels(before: Sequence[str], now: Sequence[str]) -> str:
    """What to say where the images' channels have other names; "" where they agree or nothing named them."""
    if not before or not now or list(before) == list(now):
        return ""
    return f"its images have the channels {', '.join(before)}, these have {', '.join(now)}"


def _meaning(plan: Mapping[str, object]) -> tuple[list[str], bool, bool]:
    """What the channels of the logits stand for."""
    names = [str(entry["name"]) for entry in plan["classes"]]  # type: ignore[index, attr-defined]
    return names, bool(plan["overlapping"]), bool(plan["background"])


def head_tensors(system: System, plan: Plan) -> set[str]:
    """The names of the tensors whose shape depends on the number of classes, found by building with one class more."""
    shapes = []
    for classes in (plan.out_channels, plan.out_channels + 1):
        try:
            with weightless():
                net = build_system(system, plan.model_copy(update={"out_channels": classes}))
        except (NotImplementedError, RuntimeError):
            # its constructor computes with values, so it cannot be built without memory
            net = build_system(system, plan.model_copy(update={"out_channels": classes}))
        shapes.append({name: tuple(value.shape) for name, value in net.state_dict().items()})
    return {name for name, shape in shapes[0].items() if shapes[1].get(name) != shape}


def _shape(value: object) -> str:
    return "x".join(str(n) for n in value.shape) or "number"  # type: ignore[attr-defined]
