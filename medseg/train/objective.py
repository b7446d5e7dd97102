"""What is minimised: the loss table's function, fitted to how prepared targets are coded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medseg.config import Plan, Train
from medseg.core.errors import UserError, did_you_mean
from medseg.train.job import Job
from medseg.train.sampler import IGNORED
from medseg.train.undrawn import own_loss, own_step

if TYPE_CHECKING:
    from torch import Tensor, nn

BACKGROUND = "background"


class Objective:
    """`objective(outputs, targets)` -> scalar float32 loss.

    outputs: logits (B, K, *S) or `Outputs` with auxiliary logits. targets: (B, *S) uint8 class positions, 255 left
    out; or (B, R, *S) of 0 and 1 for overlapping classes, 255 in all R where a voxel is left out.
    Auxiliary outputs count with the weights the network gives them beside the main output's 1; where it gives none, or
    with `train.auxiliary: halved`, with nnU-Net's: 1, 1/2, 1/4 ... normalised to a sum of 1, the coarsest with 0.
    """

    def __init__(self, settings: Train, plan: Plan) -> None:
        from dataclasses import replace

        from medseg.losses.table import build_from_settings

        self.background, self.overlapping, self.channels = (
            plan.background,
            plan.overlapping,
            plan.out_channels,
        )

        # Without a background class the padding around a case has no class either, so it is left out.
        classless = not plan.background and not plan.overlapping
        leaves_out = plan.ignore is not None or classless or settings.beyond_image == "ignored"
        loss = build_from_settings(
            loss_settings(settings.loss, plan),
            classes=plan.out_channels,
            regions=plan.overlapping,
            ignore=IGNORED if leaves_out else None,
            class_weights=class_weights(settings.class_weights, plan),
            include_background=not plan.background,
        )
        self.loss = replace(loss, background=plan.background)
        # A network's own step may hand on targets in which undrawn classes are hidden under the ignore value.
        self.loss_of_partly = replace(self.loss, ignore=IGNORED)
        self.normalised = settings.auxiliary == "halved"

    def __call__(self, outputs: Any, targets: Tensor, known: Tensor | None = None) -> Tensor:
        from medseg.losses.supervision import deep_supervision, nearest_labels

        loss = self.loss if known is None else self.loss_of_partly
        weights = getattr(outputs, "auxiliary_weights", ())
        if not weights or self.normalised:
            return deep_supervision(loss)(outputs, targets, known)
        total = loss(outputs.main, targets, known)
        for weight, head in zip(weights, outputs.auxiliary, strict=True):
            if weight:
                total = total + weight * loss(head, nearest_labels(targets, head.shape[2:]), known)
        return total


def loss_settings(loss: Mapping[str, Any] | str, plan: Plan) -> Mapping[str, Any] | str:
    """`train.loss` with `batch_dice: auto` decided as nnU-Net does: over the batch where patches are flat or small beside
    the case, so that a coarse first stage is planned; of each sample elsewhere."""
    if isinstance(loss, str) or loss.get("batch_dice") != "auto":
        return loss
    flat = plan.dims == 2 or "slices" in plan.topology
    small = plan.previous is not None or bool(plan.estimate.get("lowres_spacing_mm"))
    return {**loss, "batch_dice": flat or small}


def without_effect(raw: nn.Module, settings: Train) -> str:
    """What to say of settings of the loss that a network with a loss of its own does not look at; "" where none is set."""
    if hasattr(raw, "training_step") or not hasattr(raw, "loss"):
        return ""
    usual = Train(steps=1)
    asked = [
        key for key in ("loss", "class_weights", "auxiliary") if getattr(settings, key) != getattr(usual, key)
    ]
    names = ", ".join(f"train.{key}" for key in asked)
    return f"this system learns by a loss of its own; without effect: {names}" if asked else ""


StepLoss = Callable[["Tensor", "Tensor", "Tensor | None"], "Tensor"]


def step_loss(
    raw: nn.Module, net: Callable[..., Any], objective: Objective, patch_size: Sequence[int]
) -> StepLoss:
    """(images, targets, known) -> loss, by the network's own `training_step` or `loss` where it has one.

    raw: the network; net: the same as it is called in training (wrapped for the device and number type). Raises UserError when the patch does not
    fit the network's divisor.
    """
    _require_divisible(raw, patch_size)
    if hasattr(raw, "training_step"):
        net.mark_forward_method("training_step")  # type: ignore[attr-defined]
        return own_step(raw, net.training_step, objective)  # type: ignore[attr-defined]
    forward = forward_through(raw, net, patch_size)
    if hasattr(raw, "loss"):
        by_own = own_loss(raw, objective)
        return lambda images, targets, known: by_own(forward(images), targets, known)
    return lambda images, targets, known: objective(forward(images), targets, known)


def forward_through(
    raw: nn.Module, net: Callable[..., Any], patch_size: Sequence[int]
) -> Callable[[Tensor], Any]:
    """images (B, C, *patch_size) -> outputs; networks of unpadded convolutions get the border they lose, mirrored."""
    if not getattr(raw, "margin", 0):
        return net
    from medseg.zoo.layers.nd import mirror_pad

    borders = [raw.border(n) for n in patch_size]  # type: ignore[operator]
    place = (Ellipsis, *(slice(0, n) for n in patch_size))
    return lambda images: net(mirror_pad(images, borders))[place]


def _require_divisible(net: nn.Module, patch_size: Sequence[int]) -> None:
    divisor = getattr(net, "divisor", 1)
    multiples = [divisor] * len(patch_size) if isinstance(divisor, int) else list(divisor)
    if getattr(net, "margin", 0) or not any(n % m for n, m in zip(patch_size, multiples, strict=True)):
        return
    nearest = [max(m, round(n / m) * m) for n, m in zip(patch_size, multiples)]
    raise UserError(
        f"patches of {list(patch_size)} voxels do not fit this system, which takes multiples of {multiples}",
        "train.patch_size",
        f"the nearest that fits is {nearest}",
    )


def known_channels(job: Job, cases: Sequence[str], device: Any) -> Tensor | None:
    """(B, K) bool of the logits' channels whose labels each case has; None when every case has all of them."""
    import torch

    known = [job.train[case].known for case in cases]
    classes = [entry["name"] for entry in job.plan.classes]
    if all(names is None or set(classes) <= set(names) for names in known):
        return None
    first = [True] if job.plan.background and not job.plan.overlapping else []
    rows = [[*first, *(names is None or name in names for name in classes)] for names in known]
    return torch.tensor(rows, dtype=torch.bool, device=device)


def class_weights(settings: Mapping[str, float] | str | None, plan: Plan) -> list[float] | None:
    """One factor a channel with mean 1, background first; None when all count the same.

    balanced: the inverse root of each class's share of the voxels. A dictionary names classes; the others count 1.
    """
    if settings is None:
        return None
    names = [entry["name"] for entry in plan.classes]
    if plan.background and not plan.overlapping:
        names = [BACKGROUND, *names]
    if isinstance(settings, str):
        shares = [max(share_of(name, plan), 1e-6) for name in names]
        weights = [share**-0.5 for share in shares]
        return [weight * len(weights) / sum(weights) for weight in weights]
    for name in settings:
        if name not in names:
            raise UserError(
                f"no class named {name!r}{did_you_mean(name, names)}",
                "train.class_weights",
                f"the classes are {', '.join(names)}",
            )
    return [float(settings.get(name, 1.0)) for name in names]


def share_of(name: str, plan: Plan) -> float:
    """The share of voxels of a class in the training data, as the plan counted it; background is the rest."""
    if name == BACKGROUND and name not in plan.foreground_fraction:
        return max(0.0, 1.0 - sum(plan.foreground_fraction.values()))
    if name not in plan.foreground_fraction:
        raise UserError(
            f"the plan does not know how frequent {name!r} is",
            "train.class_weights",
            "give the weights by name instead of balanced, or run `medseg plan` again",
        )
    return plan.foreground_fraction[name]
