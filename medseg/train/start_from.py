"""Starting from another model's weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from medseg.core.errors import UserError
from medseg.model.folder import read_weights

if TYPE_CHECKING:
    from torch import nn


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


def take_weights(net: nn.Module, folder: Path) -> Taken:
    """Copies the weights of a model folder into `net` where name and shape agree.

    Raises UserError when the folder cannot be trusted or nothing at all agrees.
    """
    given = read_weights(folder)
    own = net.state_dict()
    left = {
        name: "not there" if name not in given else f"shape {_shape(given[name])}, needed {_shape(value)}"
        for name, value in own.items()
        if name not in given or given[name].shape != value.shape
    }
    taken = tuple(name for name in own if name not in left)
    if not taken:
        raise UserError(
            f"not one of its {len(given)} weight tensors fits this system",
            str(folder),
            "train.start_from wants a model of the same system",
        )
    net.load_state_dict({**own, **{name: given[name] for name in taken}})
    return Taken(taken, left)


def _shape(value: object) -> str:
    return "x".join(str(n) for n in value.shape) or "number"  # type: ignore[attr-defined]
