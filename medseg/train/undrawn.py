"""Cases in which some classes were not drawn, for networks that bring a loss of their own.

The losses of the table take a mask of the drawn classes (`known`). A network with its own `training_step` or `loss`
honours it in one of two ways, and is refused such cases otherwise:

- its method has the argument `known`, (B, K) bool or None, and gets it;
- its class says `undrawn_as_ignored = True`: all that it learns beside the pipeline's loss is counted voxel by voxel
  and leaves out voxels of value 255. Then its targets hold 255 wherever an undrawn class may lie, and only the
  pipeline's loss sees the labels as they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from medseg.core.errors import UserError
from medseg.train.job import Job
from medseg.train.sampler import IGNORED

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medseg.train.objective import Objective


def own_step(raw: nn.Module, step: Callable[..., Tensor], objective: Objective) -> Callable[..., Tensor]:
    """(images, targets, known) -> loss by the network's `training_step`; step: the same as it is called in training."""
    takes_mask = takes_known(type(raw).training_step)  # type: ignore[attr-defined]

    def learn(images: Tensor, targets: Tensor, known: Tensor | None) -> Tensor:
        if known is None:
            return step(images, targets, objective)
        if takes_mask:
            return step(images, targets, _knowing(objective, targets, targets, known), known=known)
        hidden = hide_undrawn(targets, known, objective)
        return step(images, hidden, _knowing(objective, targets, hidden, known))

    return learn


def own_loss(raw: nn.Module, objective: Objective) -> Callable[..., Tensor]:
    """(outputs, targets, known) -> loss by the network's `loss`."""
    takes_mask = takes_known(type(raw).loss)  # type: ignore[attr-defined]

    def learn(outputs: Any, targets: Tensor, known: Tensor | None) -> Tensor:
        if known is None:
            return raw.loss(outputs, targets)  # type: ignore[operator]
        if takes_mask:
            return raw.loss(outputs, targets, known=known)  # type: ignore[operator]
        return raw.loss(outputs, hide_undrawn(targets, known, objective))  # type: ignore[operator]

    return learn


def _knowing(
    objective: Objective, targets: Tensor, handed_out: Tensor, known: Tensor
) -> Callable[..., Tensor]:
    """The objective with the mask bound to it; what was handed out stands for the labels as they are."""

    def call(outputs: Any, given: Tensor) -> Tensor:
        return objective(outputs, targets if given is handed_out else given, known)

    return call


def hide_undrawn(targets: Tensor, known: Tensor, objective: Objective) -> Tensor:
    """Targets with 255 wherever an undrawn class may lie.

    targets: (B, R, *S) of overlapping classes, whose undrawn channels become 255; or (B, *S), of which background
    becomes 255 in samples with an undrawn class. Without a background there is nothing to hide in: voxels without a
    drawn class are 255 already. known: (B, K) bool.
    """
    if objective.overlapping:
        return targets.masked_fill(~known.reshape(*known.shape, *[1] * (targets.ndim - 2)), IGNORED)
    if not objective.background:
        return targets
    partly = ~known.all(dim=1).reshape(-1, *[1] * (targets.ndim - 1))
    return targets.masked_fill(partly & (targets == 0), IGNORED)


def takes_known(method: Callable[..., Any]) -> bool:
    """Whether a network's method takes the mask of drawn classes."""
    return "known" in inspect.signature(method).parameters


def partly_labelled(job: Job) -> list[str]:
    """The training cases in which not every class was drawn, sorted."""
    names = {entry["name"] for entry in job.plan.classes}
    return sorted(c for c, case in job.train.items() if case.known is not None and names - set(case.known))


def require_honoured(raw: nn.Module, job: Job) -> None:
    """Raises UserError when cases are partly labelled and the network's own loss would learn undrawn as absent."""
    method = next((m for m in ("training_step", "loss") if hasattr(raw, m)), None)
    if method is None or getattr(raw, "undrawn_as_ignored", False) or takes_known(getattr(type(raw), method)):
        return
    partly = partly_labelled(job)
    if not partly:
        return
    missing = sorted({entry["name"] for entry in job.plan.classes} - set(job.train[partly[0]].known or ()))
    raise UserError(
        f"{job.system.name} learns by a loss of its own, which would take classes that nobody drew for absent; "
        f"{len(partly)} of {len(job.train)} training cases are partly labelled "
        f"({', '.join(missing[:4])} {'is' if len(missing) == 1 else 'are'} not drawn in case {partly[0]})",
        "system.name",
        "choose a system that is trained by the pipeline's loss, or leave those cases or classes out",
    )


def require_fixed_sides(spec: Any, job: Job) -> None:
    """Raises UserError where left and right are exchanged in augmentation and cases are partly labelled.

    Which classes a case has is said of the case as it lies; exchanged, an undrawn left would become a drawn one.
    """
    if not isinstance(spec, dict) or "swap_sides" not in spec:
        return
    partly = partly_labelled(job)
    if partly:
        raise UserError(
            f"swap_sides exchanges left and right, but {len(partly)} of {len(job.train)} training cases are partly "
            f"labelled, the first is {partly[0]}",
            "train.augment.swap_sides",
            "leave swap_sides out, or leave those cases out",
        )
