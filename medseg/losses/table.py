"""Every loss, one row each, and the way from a name to a loss. Code is imported when a loss is built: listing loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from medseg.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from medseg.losses.loss import Loss


@dataclass(frozen=True)
class LossRow:
    """One loss: where its function is, what it computes, who published it, which arguments it takes.

    `arguments` maps a name to its default and its meaning. `overlap` rows average over classes and samples and so
    read `include_background` and `batch_dice`; the others act voxel by voxel.
    """

    name: str
    at: str
    formula: str
    reference: str
    overlap: bool
    aliases: tuple[str, ...] = ()
    arguments: Mapping[str, tuple[float | bool, str]] = field(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, tuple[float | bool, str]]:
        """What `train.loss` may say of it: its arguments, and for overlap rows those that all of them read."""
        return {**self.arguments, **(OF_OVERLAPS if self.overlap else {})}


OF_OVERLAPS: Mapping[str, tuple[float | bool, str]] = {
    "batch_dice": (True, "the overlap of all patches of a batch together instead of one each"),
    "include_background": (False, "exclusive classes only: background counts as a class"),
}

SMOOTH = {"smooth": (1e-5, "added above and below the fraction, so that an empty class has a value")}

ROWS = (
    LossRow(
        "dice",
        "overlap:dice",
        "1 - (2 I + s) / (P + G + s)",
        "Drozdzal et al. 2016, arXiv:1608.04117; squared form: Milletari et al. 2016, arXiv:1606.04797",
        overlap=True,
        aliases=("soft_dice",),
        arguments={**SMOOTH, "squared": (False, "sum p**2 instead of p below the fraction, as V-Net does")},
    ),
    LossRow(
        "dice_ce",
        "combined:dice_ce",
        "dice + cross-entropy",
        "Isensee et al. 2021, doi:10.1038/s41592-020-01008-z",
        overlap=True,
        aliases=("dice_and_ce", "dicece"),
        arguments={
            "dice_weight": (1.0, "factor on the Dice part"),
            "ce_weight": (1.0, "factor on the cross-entropy part"),
            **SMOOTH,
            "sum_regions": (
                False,
                "regions only: add the regions' cross-entropies up instead of averaging them",
            ),
        },
    ),
    LossRow(
        "ce",
        "entropy:cross_entropy",
        "- mean log p_true",
        "Goodfellow et al. 2016, Deep Learning, section 6.2.2",
        overlap=False,
        aliases=("cross_entropy", "bce"),
        arguments={
            "sum_regions": (False, "regions only: add the regions' losses up instead of averaging them")
        },
    ),
    LossRow(
        "focal",
        "entropy:focal",
        "- mean (1 - p_true)**gamma log p_true",
        "Lin et al. 2017, arXiv:1708.02002",
        overlap=False,
        arguments={"gamma": (2.0, "how little voxels count that are right already; 0 is cross-entropy")},
    ),
    LossRow(
        "tversky",
        "overlap:tversky",
        "1 - (I + s) / (I + alpha FP + beta FN + s)",
        "Salehi et al. 2017, arXiv:1706.05721",
        overlap=True,
        arguments={
            "alpha": (0.3, "price of an invented voxel"),
            "beta": (0.7, "price of a missed voxel"),
            **SMOOTH,
        },
    ),
    LossRow(
        "jaccard",
        "overlap:jaccard",
        "1 - (I + s) / (P + G - I + s)",
        "Rahman and Wang 2016, doi:10.1007/978-3-319-50835-1_22",
        overlap=True,
        aliases=("iou",),
        arguments=SMOOTH,
    ),
    LossRow(
        "generalised_dice",
        "overlap:generalised_dice",
        "1 - 2 sum w I / sum w (P + G), w = 1 / G**2",
        "Sudre et al. 2017, arXiv:1707.03237",
        overlap=True,
        aliases=("generalized_dice", "gdl"),
        arguments=SMOOTH,
    ),
)

LOSSES: Mapping[str, LossRow] = {row.name: row for row in ROWS}
BY_ALIAS: Mapping[str, LossRow] = {alias: row for row in ROWS for alias in (row.name, *row.aliases)}


def find_loss(name: str, where: str = "train.loss") -> LossRow:
    """The row of a loss by name or alias; UserError with the nearest name on a miss."""
    key = name.strip().lower().replace("-", "_").replace(" ", "_")
    row = BY_ALIAS.get(key)
    if row is None:
        raise UserError(
            f"no loss named {name!r}{did_you_mean(key, BY_ALIAS)}", where, "known: " + ", ".join(LOSSES)
        )
    return row


def check_arguments(row: LossRow, arguments: Mapping[str, object], where: str = "train.loss") -> None:
    """Refuse arguments that a loss does not take, and values that are not numbers."""
    for name, value in arguments.items():
        if name not in row.settings:
            known = ", ".join(row.settings)
            raise UserError(
                f"loss {row.name} takes no {name!r}{did_you_mean(name, row.settings)}",
                where,
                f"it takes: {known}",
            )
        boolean = isinstance(row.settings[name][0], bool)
        fits = (
            isinstance(value, bool)
            if boolean
            else isinstance(value, (int, float)) and not isinstance(value, bool)
        )
        if not fits or (not boolean and not 0 <= float(str(value)) < float("inf")):
            wanted = "true or false" if boolean else "a number, 0 or above"
            raise UserError(f"loss {row.name}: {name} is {value!r}", where, f"{name} is {wanted}")


def build_loss(
    name: str,
    *,
    classes: int,
    regions: bool = False,
    ignore: int | None = None,
    class_weights: Sequence[float] | None = None,
    include_background: bool = False,
    batch_dice: bool = True,
    **arguments: float | bool,
) -> Loss:
    """Build a loss by its name in `LOSSES`; call the result with (logits, target).

    classes: channels of the network, background included (regions: their number). ignore: the label value of voxels
    that count nowhere. class_weights: one factor a channel (dice_ce: on its cross-entropy alone). include_background, batch_dice: for overlap losses.
    arguments: the loss's own, as its row lists them. Raises UserError for anything that does not fit.
    """
    from medseg.losses.loss import Loss
    from medseg.losses.overlap import OverlapSettings

    row = find_loss(name)
    check_arguments(row, arguments)
    if classes < 2 and not regions:
        raise UserError(
            f"{classes} class for exclusive classes",
            "train.loss",
            "background is a class too, so there are at least 2; one overlapping mask is a region",
        )
    weights = _checked_weights(class_weights, classes)
    module, _, function = row.at.partition(":")
    measure = getattr(import_module(f"medseg.losses.{module}"), function)
    if row.overlap:
        settings = OverlapSettings(include_background, batch_dice, weights)
        return Loss(row.name, partial(measure, settings=settings, **arguments), classes, regions, ignore)
    return Loss(row.name, partial(measure, class_weights=weights, **arguments), classes, regions, ignore)


def build_from_settings(settings: str | Mapping[str, object], **shared: object) -> Loss:
    """Build from what a pipeline file may hold: a name, or {name: ..., argument: value}.

    shared: what the plan says, as arguments of `build_loss`; the file cannot change it. Without a background class
    every class counts, whatever the file says.
    """
    own = {"name": settings} if isinstance(settings, str) else dict(settings)
    if "name" not in own:
        raise UserError(f"a loss without a name: {own}", "train.loss", "write {name: dice_ce, ...}")
    row = find_loss(str(own.pop("name")))
    check_arguments(row, own)
    if shared.get("include_background"):
        own.pop("include_background", None)
    return build_loss(row.name, **{**shared, **own})  # type: ignore[arg-type]


def _checked_weights(class_weights: Sequence[float] | None, classes: int) -> tuple[float, ...] | None:
    """One finite factor a class, not all of them 0."""
    if class_weights is None:
        return None
    weights = tuple(float(weight) for weight in class_weights)
    if len(weights) != classes:
        raise UserError(
            f"{len(weights)} class weights for {classes} classes",
            "train.class_weights",
            "give one a class, background first",
        )
    if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
        raise UserError(
            f"class weights {list(weights)}",
            "train.class_weights",
            "weights are finite, 0 or above, and not all 0",
        )
    return weights
