"""Every procedure by name, and the way from `train.procedure` to one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medseg.core.errors import UserError, did_you_mean
from medseg.train.procedures.mean_teacher import MeanTeacher
from medseg.train.procedures.procedure import Procedure, Supervised
from medseg.train.procedures.pseudo_labels import PseudoLabels
from medseg.train.sampler import Prepared, Sampling

PROCEDURES: dict[str, type[Procedure]] = {
    "supervised": Supervised,
    "mean_teacher": MeanTeacher,
    "pseudo_labels": PseudoLabels,
}
KEY = "train.procedure"


def find_procedure(spec: Mapping[str, Any] | str) -> tuple[type[Procedure], dict[str, float]]:
    """The procedure of a name, or of {name: .., argument: value}, and its arguments.

    Raises UserError for unknown names and arguments, with the nearest, and for values that are no numbers.
    """
    arguments = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = str(arguments.pop("name", ""))
    if name not in PROCEDURES:
        raise UserError(
            f"no procedure named {name!r}{did_you_mean(name, PROCEDURES)}",
            KEY,
            f"known: {', '.join(PROCEDURES)}",
        )
    kind = PROCEDURES[name]
    for key, value in arguments.items():
        if key not in kind.arguments:
            takes = ", ".join(kind.arguments) or "no arguments"
            raise UserError(
                f"{name} takes no {key!r}{did_you_mean(key, kind.arguments)}", KEY, f"it takes {takes}"
            )
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise UserError(f"{name}: {key} is {value!r}", KEY, f"{key} is a number, 0 or above")
    return kind, arguments


def build_procedure(
    spec: Mapping[str, Any] | str, unlabelled: Mapping[str, Prepared], sampling: Sampling
) -> Procedure:
    """The procedure that `train.procedure` asks for. Raises UserError when it needs cases without a label and has none."""
    kind, arguments = find_procedure(spec)
    if kind.needs_unlabelled and not unlabelled:
        name = spec if isinstance(spec, str) else spec["name"]
        raise UserError(
            f"{name} learns from cases without a label, and there is none in the training split",
            KEY,
            "add images without labels (data.unlabelled: skip), or set train.procedure: supervised",
        )
    return kind(unlabelled if kind.needs_unlabelled else {}, sampling, **arguments)
