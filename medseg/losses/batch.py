"""What every loss reads: probabilities, targets and masks of one batch, prepared once and in float32.

Shapes: B batch, K channels of the network (classes with background, or regions), *S two or three spatial axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.core.errors import UserError

# A logit so low that its probability is exactly 0 in float32, and finite, so that 0 * log p stays 0.
ABSENT_LOGIT = -1.0e4


@dataclass(frozen=True)
class Batch:
    """One prepared batch.

    logits        (B, K, *S) float32; for exclusive classes those unknown in a sample are merged into background
    probability   (B, K, *S) float32: softmax over K, or a sigmoid per region
    target        (B, K, *S) bool: one-hot classes, or regions
    valid         (B, 1, *S) or (B, K, *S) bool, False where a voxel carries the ignore label; None when all count
    counted       (B, K) bool: the classes whose labels this sample has
    labels        (B, *S) int64, the class of each voxel; None for regions, which may overlap
    """

    logits: Tensor
    probability: Tensor
    target: Tensor
    valid: Tensor | None
    counted: Tensor
    labels: Tensor | None


def prepare(
    logits: Tensor,
    target: Tensor,
    *,
    regions: bool,
    ignore: int | None,
    known: Tensor | None,
    background: bool = True,
) -> Batch:
    """Check shapes and values, and turn a network's output and its labels into a `Batch`.

    logits (B, K, *S) of any float type; target (B, *S) or (B, 1, *S) integers for exclusive classes. For regions
    (B, K, *S) of 0 and 1, and `ignore` where a channel is not labelled; or with one channel more, 1 = ignored in all.
    known (B, K) bool. background: whether channel 0 of exclusive classes is background.
    Raises UserError for shapes that do not fit and label values without a class.
    """
    logits = logits.float()
    counted = _counted(logits, known)
    if regions:
        target, valid = _region_target(logits, target, ignore)
        return Batch(logits, logits.sigmoid(), target, valid, counted, None)
    labels, valid = _class_labels(logits, target, ignore)
    if known is not None and background:
        logits, labels = _merge_unknown(logits, labels, counted)
    elif known is not None:
        valid = _without_unknown(labels, valid, counted)
    one_hot = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device).scatter_(
        1, labels[:, None], True
    )
    return Batch(logits, logits.softmax(dim=1), one_hot, valid, counted, labels)


def _counted(logits: Tensor, known: Tensor | None) -> Tensor:
    """(B, K) bool of the classes that this sample's labels cover; all of them when nothing else is said."""
    expected = tuple(logits.shape[:2])
    if known is None:
        return torch.ones(expected, dtype=torch.bool, device=logits.device)
    if tuple(known.shape) != expected:
        raise UserError(
            f"the table of labelled classes has shape {tuple(known.shape)}",
            "loss",
            f"give one row a sample and one column a class: {expected}",
        )
    return known.to(device=logits.device, dtype=torch.bool)


def _class_labels(logits: Tensor, target: Tensor, ignore: int | None) -> tuple[Tensor, Tensor | None]:
    """Labels (B, *S) int64 with ignored voxels set to 0, and where they are valid (B, 1, *S)."""
    if target.ndim == logits.ndim and target.shape[1] == 1:
        target = target[:, 0]
    if target.shape != (logits.shape[0], *logits.shape[2:]):
        raise UserError(
            f"labels of shape {tuple(target.shape)} do not fit logits of shape {tuple(logits.shape)}",
            "loss",
            "labels are (batch, *space) integers on the grid of the network's output",
        )
    labels = target.long()
    valid = None
    if ignore is not None:
        valid = (labels != ignore)[:, None]
        labels = labels.masked_fill(~valid[:, 0], 0)
    _check_label_range(labels, classes=logits.shape[1])
    return labels, valid


def _check_label_range(labels: Tensor, classes: int) -> None:
    """Refuse values without a class: a GPU would otherwise stop with an assertion that names no value."""
    if labels.numel() == 0:
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise UserError(
            f"label value {wrong} is none of the {classes} classes 0 to {classes - 1}",
            "loss",
            "name every value under data.classes, or set data.ignore to the value that means 'not labelled'",
        )


def _region_target(logits: Tensor, target: Tensor, ignore: int | None) -> tuple[Tensor, Tensor | None]:
    """Region masks (B, K, *S) bool, and where they are valid: (B, K, *S), or (B, 1, *S) from an extra channel."""
    expected = (logits.shape[0], *logits.shape[2:])
    if (target.shape[0], *target.shape[2:]) == expected and target.ndim == logits.ndim:
        _check_region_values(target, ignore)
        if target.shape[1] == logits.shape[1]:
            return (target == 1, None) if ignore is None else (target == 1, target != ignore)
        if target.shape[1] == logits.shape[1] + 1 and ignore is not None:
            return target[:, :-1] == 1, target[:, -1:] != 1
    raise UserError(
        f"region masks of shape {tuple(target.shape)} do not fit logits of shape {tuple(logits.shape)}",
        "loss",
        "region masks are (batch, regions, *space); with data.ignore one channel more may mark ignored voxels",
    )


def _check_region_values(target: Tensor, ignore: int | None) -> None:
    """Refuse values that are neither 0, 1 nor the ignore label: they would be learnt as background in silence."""
    if target.dtype == torch.bool:
        return
    wrong = (target != 0) & (target != 1)
    if ignore is not None:
        wrong &= target != ignore
    if wrong.any():
        raise UserError(
            f"region masks hold the value {target[wrong][0].item()} (ignore label: {ignore})",
            "loss",
            "region masks are 0 and 1; tell the loss which value means 'not labelled'",
        )


def _merge_unknown(logits: Tensor, labels: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Where a class was not drawn, a background label means "background or that class".

    The probabilities of unknown classes are added to background's (the marginal loss of Shi et al. 2021,
    arXiv:2007.03868, eq. 4; Fidon et al. 2021, arXiv:2107.03846, call it a label-set loss), done on logits so that every loss of the room profits.
    """
    merged = ~counted
    merged[:, 0] = True
    column = merged.reshape(*merged.shape, *[1] * (logits.ndim - 2))
    background = logits.masked_fill(~column, -torch.inf).logsumexp(dim=1, keepdim=True)
    rest = logits.masked_fill(column, ABSENT_LOGIT)[:, 1:]
    sample = torch.arange(len(labels), device=labels.device).reshape(-1, *[1] * (labels.ndim - 1))
    return torch.cat([background, rest], dim=1), labels.masked_fill(merged[sample, labels], 0)


def _without_unknown(labels: Tensor, valid: Tensor | None, counted: Tensor) -> Tensor:
    """(B, 1, *S) bool: what counts where no channel is background, so that nothing can hide an undrawn class.

    A voxel that carries a drawn class is known to be of no other one; a voxel without one teaches nothing (it is not
    taken for a member of the set of undrawn classes, as the label-set loss of Fidon et al. 2021, arXiv:2107.03846,
    would: such voxels may lie beyond the image's edge).
    """
    sample = torch.arange(len(labels), device=labels.device).reshape(-1, *[1] * (labels.ndim - 1))
    drawn = counted[sample, labels][:, None]
    return drawn if valid is None else drawn & valid


def masked(values: Tensor, valid: Tensor | None) -> Tensor:
    """`values` with ignored voxels set to 0."""
    return values if valid is None else values * valid
