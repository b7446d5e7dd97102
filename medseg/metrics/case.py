"""One prediction against its reference: a row of measures for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation
from medseg.metrics.matching import ClassMatch, match_classes, name_key
from medseg.metrics.pair import Box, Mask, Pair, bounding_box
from medseg.metrics.table import DEFAULT_METRICS, MetricRow, columns_of

FOUND = ""
ABSENT = "absent in both"
MISSED = "missed: absent in the prediction"
INVENTED = "invented: absent in the reference"
UNKNOWN = "not labelled in this case"

Row = dict[str, Any]


@dataclass(frozen=True)
class Scoring:
    """How a case is scored.

    metrics: names of the metric table. tolerance: of the surface Dice, in mm (px). ignore: the reference's label
    values that are left out everywhere. known: names of the classes the reference covers; None: all. matches: which
    class is which; None: by code, name, number. merge: further rows for unions of classes, name -> class names.
    """

    metrics: tuple[str, ...] = DEFAULT_METRICS
    tolerance: float = 2.0
    ignore: tuple[int, ...] = ()
    known: frozenset[str] | None = None
    matches: tuple[ClassMatch, ...] | None = None
    merge: Mapping[str, Sequence[str]] = field(default_factory=dict)


def score_case(
    pred: Segmentation, true: Segmentation, scoring: Scoring | None = None, where: str = "score"
) -> list[Row]:
    """One row a class, then one a union of `scoring.merge`.

    A row holds `class`, `index`, `merged`, `unit`, `tp`, `fp`, `fn` (voxels), one column a metric (None where
    undefined) and `reason` ("" where both masks hold the class). Without `scoring.matches` only classes that both sides
    know are scored. Raises UserError when the grids differ, with both grids and the distance between them, and when
    the two share no class.
    """
    scoring = scoring or Scoring()
    pred.geometry.require_same_grid(true.geometry, "the prediction", "the reference", where)
    matches = _shared(pred, true, where) if scoring.matches is None else scoring.matches
    columns = columns_of(tuple(scoring.metrics), true.geometry.unit, true.geometry.ndim)
    masks = _Masks(pred, true, scoring.ignore)
    rows: list[Row] = []
    for match in matches:
        facts: Row = {"class": match.name, "index": _index(match, pred, true), "merged": False}
        known = scoring.known is None or match.true is None or true.classes[match.true].name in scoring.known
        rows.append(facts | _measure(_one(match.pred), _one(match.true), masks, columns, scoring, known))
    for name, parts in scoring.merge.items():
        pred_parts = _union_members(
            name, parts, pred.classes, {m.pred: m.name for m in matches if m.pred is not None}
        )
        true_parts = _union_members(
            name, parts, true.classes, {m.true: m.name for m in matches if m.true is not None}
        )
        if pred_parts and true_parts and name not in {row["class"] for row in rows}:
            known = scoring.known is None or all(true.classes[t].name in scoring.known for t in true_parts)
            facts = {"class": name, "index": None, "merged": True}
            rows.append(facts | _measure(pred_parts, true_parts, masks, columns, scoring, known))
    return rows


def _shared(pred: Segmentation, true: Segmentation, where: str) -> tuple[ClassMatch, ...]:
    """The classes that both sides know; UserError with both lists where there is none."""
    matches = match_classes(pred.classes, true.classes).matches
    if not matches:
        ours, theirs = (", ".join(info.name for info in side.classes) or "none" for side in (pred, true))
        raise UserError(
            f"the prediction (classes: {ours}) and the reference (classes: {theirs}) share no class",
            where,
            "give both the same names, codes or numbers",
        )
    return matches


def _one(position: int | None) -> list[int]:
    """The positions of a side's class: none where it does not have the class."""
    return [] if position is None else [position]


def _index(match: ClassMatch, pred: Segmentation, true: Segmentation) -> int | None:
    """The number of a class, as the reference has it, else as the prediction has it."""
    if match.true is not None:
        return true.classes[match.true].index
    return None if match.pred is None else pred.classes[match.pred].index


def _union_members(
    name: str, parts: Sequence[str], classes: Sequence[ClassInfo], matched: Mapping[int, str]
) -> list[int]:
    """Positions of the classes that make up a union: one class of that name, or all of its parts; [] when some lack."""
    position: dict[tuple[str, ...], int] = {}
    for p, info in enumerate(classes):
        position.setdefault(name_key(info.name), p)
        position.setdefault(name_key(matched.get(p, info.name)), p)
    if name_key(name) in position:
        return [position[name_key(name)]]
    found = [position.get(name_key(part)) for part in parts]
    return [p for p in found if p is not None] if None not in found else []


def _measure(
    pred_parts: Sequence[int],
    true_parts: Sequence[int],
    masks: _Masks,
    columns: Mapping[str, MetricRow],
    scoring: Scoring,
    known: bool,
) -> Row:
    """The measured part of a row, for one class of each side or the union of several."""
    unit = masks.geometry.unit
    if not known:
        return {"unit": unit, "tp": None, "fp": None, "fn": None, **dict.fromkeys(columns), "reason": UNKNOWN}
    pair = masks.pair(pred_parts, true_parts)
    values = {
        column: row.measure(pair, **({"tolerance": scoring.tolerance} if row.takes_tolerance else {}))
        for column, row in columns.items()
    }
    counts = {"tp": pair.true_positives, "fp": pair.false_positives, "fn": pair.false_negatives}
    return {"unit": unit, **counts, **values, "reason": _reason(pair)}


def _reason(pair: Pair) -> str:
    if pair.pred_voxels and pair.true_voxels:
        return FOUND
    if pair.true_voxels:
        return MISSED
    return INVENTED if pair.pred_voxels else ABSENT


class _Masks:
    """The masks of two segmentations, each cut to a class's box before anything is compared.

    The boxes of all classes are found in one pass over each label map, so a small organ costs what its box costs.
    """

    def __init__(self, pred: Segmentation, true: Segmentation, ignore: Sequence[int]) -> None:
        self.sides = (pred, true)
        self.boxes = tuple(_class_boxes(side) for side in self.sides)
        self.ignore = ignore
        self.geometry: Geometry = true.geometry
        self.steps = np.array(true.geometry.affine[:3, : true.geometry.ndim].T)

    def pair(self, pred_positions: Sequence[int], true_positions: Sequence[int]) -> Pair:
        """The pair of the unions of some classes of the prediction and of the reference."""
        positions = (pred_positions, true_positions)
        boxes = [self.boxes[side][position] for side in (0, 1) for position in positions[side]]
        box = _union([b for b in boxes if b is not None], self.geometry.ndim)
        pred, true = (_cut(self.sides[side], positions[side], box) for side in (0, 1))
        if self.ignore:
            valid = ~np.isin(self.sides[1].labels[box], self.ignore)
            pred, true = pred & valid, true & valid
        return Pair(pred, true, self.steps, self.geometry.shape)


def _class_boxes(segmentation: Segmentation) -> list[Box | None]:
    """The box of each class, in the order of the classes; None for an absent one."""
    if segmentation.regions is not None:
        boxes = [bounding_box(region) for region in segmentation.regions]
        return [box if box[0].stop > box[0].start else None for box in boxes]
    from scipy import ndimage

    highest = max((info.index for info in segmentation.classes), default=0)
    found = ndimage.find_objects(_countable(segmentation.labels), max_label=highest)
    whole = tuple(slice(0, n) for n in segmentation.geometry.shape)
    # a class may be 0 where every pixel has a class; its box is not searched for
    return [found[info.index - 1] if info.index > 0 else whole for info in segmentation.classes]


def _countable(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Labels of a type that box search takes: signed and at most 64 bits."""
    return labels.astype(np.int64) if labels.dtype == np.uint64 else labels


def _union(boxes: Sequence[Box], ndim: int) -> Box:
    """The smallest box around some boxes; empty for none."""
    if not boxes:
        return (slice(0, 0),) * ndim
    return tuple(slice(min(b[a].start for b in boxes), max(b[a].stop for b in boxes)) for a in range(ndim))


def _cut(segmentation: Segmentation, positions: Sequence[int], box: Box) -> Mask:
    """The union of some classes inside a box; nothing for no classes."""
    if not positions:
        return np.zeros([b.stop - b.start for b in box], dtype=np.bool_)
    if segmentation.regions is not None:
        parts = [segmentation.regions[position][box] for position in positions]
    else:
        labels = segmentation.labels[box]
        parts = [labels == segmentation.classes[position].index for position in positions]
    return np.asarray(np.logical_or.reduce(parts))
