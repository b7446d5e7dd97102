"""Label values <-> positions of classes, as networks and losses count them.

A target holds 0 for background and position + 1 for the class at `position` of the plan; without background the
position itself; 255 where the label says "ignore". Overlapping classes are (R, *S) channels of 0 and 1, with 255 in
every channel where ignored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.config import Plan
from medseg.core.errors import UserError
from medseg.core.segmentation import ClassInfo, Segmentation

IGNORED = 255
"""Target value of voxels that neither loss nor score looks at."""


def classes_of(plan: Plan) -> tuple[ClassInfo, ...]:
    """The plan's classes."""
    return tuple(ClassInfo.from_json(facts) for facts in plan.classes)


def encode(seg: Segmentation, plan: Plan) -> npt.NDArray[np.uint8]:
    """Labels (*S) -> target (*S), or regions (R, *S) -> target (R, *S) where classes overlap.

    Raises UserError with values and voxel counts when a label value belongs to no class.
    """
    if plan.overlapping:
        return _encode_regions(seg, plan)
    labels = seg.labels
    values, counts = label_values(labels)
    table = {info.index: position + plan.background for position, info in enumerate(classes_of(plan))}
    if plan.background:
        table.setdefault(0, 0)
    if plan.ignore is not None:
        table[plan.ignore] = IGNORED
    unknown = {int(v): int(n) for v, n in zip(values, counts) if int(v) not in table}
    if unknown and not plan.background and set(unknown) == {0}:
        # Without a background class 0 can only mean "nobody said": such pixels are left out.
        table[0] = IGNORED
    elif unknown:
        listed = ", ".join(f"{value} ({count} voxels)" for value, count in unknown.items())
        known = ", ".join(str(v) for v in sorted(table))
        raise UserError(
            f"label values without a class: {listed}; known are {known}",
            hint="name them under data.classes, or set data.ignore",
        )
    return _look_up(labels, values, table)


def decode(positions: npt.NDArray[np.uint8], plan: Plan) -> npt.NDArray[Any]:
    """Target positions (*S) -> label values (ClassInfo.index), uint8 or uint16; 255 becomes the ignore value or 0."""
    indices = [info.index for info in classes_of(plan)]
    largest = max([*indices, plan.ignore or 0, 0])
    table = np.zeros(256, dtype=np.uint8 if largest < 256 else np.uint16)
    for position, index in enumerate(indices):
        table[position + plan.background] = index
    table[IGNORED] = plan.ignore or 0
    return table[positions]


def _encode_regions(seg: Segmentation, plan: Plan) -> npt.NDArray[np.uint8]:
    classes = classes_of(plan)
    if seg.regions is not None:
        if len(seg.regions) != len(classes):
            raise UserError(f"the label has {len(seg.regions)} regions, the plan {len(classes)}")
        target = seg.regions.astype(np.uint8)
    else:
        target = np.stack([(seg.labels == info.index).astype(np.uint8) for info in classes])
    if plan.ignore is not None and plan.ignore not in {info.index for info in classes}:
        target[:, seg.labels == plan.ignore] = IGNORED
    return target


def lost_classes(seg: Segmentation, target: npt.NDArray[np.uint8], plan: Plan) -> list[str]:
    """Names of the classes of which a label holds voxels and its target, on the prepared grid, holds none."""
    classes = classes_of(plan)
    if seg.regions is not None:
        there = [bool(region.any()) for region in seg.regions]
    else:
        values = set(label_values(seg.labels)[0].tolist())
        there = [info.index in values for info in classes]
    if plan.overlapping:
        kept = [bool((region == 1).any()) for region in target]
    else:
        positions = set(label_values(target)[0].tolist())
        kept = [k + plan.background in positions for k in range(len(classes))]
    return [info.name for info, before, after in zip(classes, there, kept) if before and not after]


def label_values(labels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The values of a label map, ascending, and how many voxels have each."""
    planes = _planes(labels)
    if labels.dtype == np.uint8:
        counts = sum(np.bincount(plane.ravel(order="K"), minlength=256) for plane in planes)
        values = np.flatnonzero(counts)
        return values, counts[values]
    found: dict[int, int] = {}
    for plane in planes:
        for value, count in zip(*np.unique(plane, return_counts=True)):
            found[int(value)] = found.get(int(value), 0) + int(count)
    ordered = sorted(found)
    return np.array(ordered), np.array([found[value] for value in ordered])


def _planes(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same array, first the axis that lies widest apart in memory.

    Counting and looking up turn what they are given into 64-bit numbers; plane by plane that costs nothing.
    """
    return np.moveaxis(labels, int(np.argmax(np.abs(labels.strides))), 0)


def _look_up(
    labels: npt.NDArray[Any], values: npt.NDArray[Any], table: dict[int, int]
) -> npt.NDArray[np.uint8]:
    low, high = int(values[0]), int(values[-1])
    dense = high - low < 70_000
    lookup = np.zeros(high - low + 1 if dense else 0, np.uint8)
    if dense:
        lookup[np.asarray(values, dtype=np.int64) - low] = [table[int(v)] for v in values]
    sparse = np.array([table[int(v)] for v in values], np.uint8)
    out = np.empty_like(labels, dtype=np.uint8)
    for plane, into in zip(_planes(labels), _planes(out)):
        numbers = plane.astype(np.int64)
        into[...] = lookup[numbers - low] if dense else sparse[np.searchsorted(values, numbers)]
    return out
