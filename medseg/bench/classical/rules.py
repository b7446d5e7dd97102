"""From a method's labels to the object, by rules that do not see the truth; prompts simulated from the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medseg.bench.classical.images import Sample
from medseg.core.prompt import Prompt
from medseg.zoo.card import Card

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.integer]

RULES = {
    "own": "what the method itself calls the object",
    "minority": "all labels but the one that covers the most of the image",
    "darkest": "the label of the lowest mean intensity",
    "dark_inside": "the label of the lowest mean intensity, without its parts that touch two or more of the image's four sides",
}
"""How labels without names become the object, the same for every image of a set."""

SEEDED = (
    "region-growing", "watershed", "graph-min-cut", "graph-cuts", "random-walker", "interactive-seeds",
    "pgm-discriminative", "pgm-bayesian-network", "mrf-potts", "crf-grid", "crf-dense",
)  # fmt: skip
"""Methods that take seeds of object and background."""

BOXED = ("grabcut", "snake", "level-set", "acwe", "morph-acwe", "acm-localized")
"""Methods that start from a box around one object."""

OBJECT_DOTS, BACKGROUND_DOTS = 5, 10
DOT_VOXELS = 2.0
"""Radius of a simulated dot."""


def object_in(labels: Labels, grey: npt.NDArray[np.floating], rule: str) -> Mask:
    """The object (*S) among labels (*S) by a rule of `RULES`; grey (*S) is the image's intensity."""
    if rule == "own":
        return labels > 0
    values, where = np.unique(labels, return_inverse=True)
    where = where.reshape(labels.shape)
    sizes = np.bincount(where.ravel())
    if len(values) == 1:
        return np.zeros(labels.shape, dtype=bool)
    if rule == "minority":
        return np.asarray(where != int(sizes.argmax()))
    means = np.bincount(where.ravel(), weights=grey.ravel().astype(np.float64)) / sizes
    mask = np.asarray(where == int(means.argmin()))
    return inside(mask) if rule == "dark_inside" else mask


def inside(mask: Mask) -> Mask:
    """Connected parts of a mask that touch at most one of the four ends of its first two axes."""
    from scipy.ndimage import label

    parts, count = label(mask)
    touched = np.zeros(count + 1, dtype=np.int64)
    for axis in (0, 1):
        for end in (0, -1):
            touched[np.unique(parts.take(end, axis=axis))] += 1
    touched[0] = 2
    return np.asarray((touched < 2)[parts])


def parted(labels: Labels) -> Labels:
    """Labels in which what `inside` keeps of each label has a number of its own: 2 v + 1, the rest 2 v."""
    out = 2 * labels.astype(np.int64)
    for value in np.unique(labels):
        out[inside(labels == value)] += 1
    return out


def best_union(labels: Labels, truth: Mask, valid: Mask | None = None) -> Mask:
    """The labels that together give the best Dice, chosen with the truth at hand: what any rule could reach at most.

    Taking labels by their share of truth, the purest first, one of the beginnings of that order is the best union.
    """
    values, where = np.unique(labels, return_inverse=True)
    where = where.reshape(labels.shape)
    counts = np.ones(truth.shape, bool) if valid is None else valid
    sizes = np.bincount(where[counts], minlength=len(values))
    hits = np.bincount(where[counts & truth], minlength=len(values))
    order = np.argsort(-hits / np.maximum(sizes, 1), kind="stable")
    dice = 2 * np.cumsum(hits[order]) / np.maximum(np.cumsum(sizes[order]) + hits.sum(), 1)
    return np.isin(where, order[: int(dice.argmax()) + 1])


def prompt_for(card: Card, sample: Sample) -> Prompt | None:
    """The prompt a method gets on a sample: what people drew, else simulated from the truth."""
    if card.name in BOXED:
        box = sample.box or box_around(sample.truth)
        return None if box is None else boxed(box, sample.spacing_mm)
    if card.name in SEEDED:
        drawn = sample.strokes if sample.strokes is not None else dots(sample.truth, sample.spacing_mm)
        return None if drawn is None else Prompt(mask=drawn)
    return None


def boxed(box: Sequence[slice], spacing_mm: Sequence[float]) -> Prompt:
    """A prompt of one box: lowest corner to just before the highest, in mm (px for photographs)."""
    step = np.asarray(spacing_mm, dtype=float)
    corners = np.array([[s.start for s in box], [s.stop for s in box]], dtype=float) * step
    return Prompt(boxes=corners[None], box_classes=np.ones(1, dtype=np.int64))


def box_around(truth: Mask | None, margin: float = 0.03) -> tuple[slice, ...] | None:
    """The tight box of a mask, widened by 3 % of the image's size on every side; None for an empty mask."""
    if truth is None or not truth.any():
        return None
    found = []
    for axis, size in enumerate(truth.shape):
        others = tuple(a for a in range(truth.ndim) if a != axis)
        places = np.flatnonzero(truth.any(axis=others))
        wide = max(1, round(margin * size))
        found.append(slice(max(0, int(places[0]) - wide), min(size, int(places[-1]) + 1 + wide)))
    return tuple(found)


def dots(truth: Mask | None, spacing_mm: Sequence[float]) -> npt.NDArray[np.uint8] | None:
    """Simulated seeds (*S): 1 in the object, 255 in the background.

    Five dots share the object's parts, but each part that has at least a twentieth of the largest gets one; ten lie
    in the background. The first dot of a part is where it is deepest; each further one lies farthest from those
    before it, where the part is at least half as deep. A dot is a ball of two voxels.
    """
    from scipy.ndimage import label

    if truth is None or not truth.any() or truth.all():
        return None
    parts = label(truth)[0]
    sizes = np.bincount(parts.ravel())[1:]
    large = [n + 1 for n in np.argsort(-sizes, kind="stable") if sizes[n] >= sizes.max() / 20]
    places = [spread(parts == n, max(1, OBJECT_DOTS // len(large)), spacing_mm) for n in large]
    seeds = np.zeros(truth.shape, dtype=np.uint8)
    paint(seeds, spread(~truth, BACKGROUND_DOTS, spacing_mm), ~truth, 255)
    paint(seeds, np.concatenate(places), truth, 1)
    return seeds


def spread(mask: Mask, count: int, spacing_mm: Sequence[float]) -> npt.NDArray[np.int64]:
    """(count, D) places of a mask: the deepest, then each farthest from those before."""
    from scipy.ndimage import distance_transform_edt

    box = box_around(mask, 0.0) or tuple(slice(0, n) for n in mask.shape)
    depth = distance_transform_edt(np.pad(mask[box], 1), sampling=spacing_mm)[(slice(1, -1),) * mask.ndim]
    found = np.argwhere(depth >= depth.max() / 2)
    first = np.argwhere(depth == depth.max())[0]
    steps = np.asarray(spacing_mm)
    chosen, far = [first], np.square((found - first) * steps).sum(axis=1)
    while len(chosen) < min(count, len(found)):
        chosen.append(found[int(far.argmax())])
        far = np.minimum(far, np.square((found - chosen[-1]) * steps).sum(axis=1))
    return np.asarray(chosen) + [s.start for s in box]


def paint(seeds: npt.NDArray[np.uint8], places: npt.NDArray[np.int64], mask: Mask, value: int) -> None:
    """Writes a ball of `DOT_VOXELS` at each place, inside the mask."""
    reach = int(DOT_VOXELS)
    offsets = np.argwhere(np.ones((2 * reach + 1,) * seeds.ndim)) - reach
    ball = offsets[np.square(offsets).sum(axis=1) <= DOT_VOXELS**2]
    points = (places[:, None] + ball[None]).reshape(-1, seeds.ndim)
    points = points[((points >= 0) & (points < seeds.shape)).all(axis=1)]
    points = points[mask[tuple(points.T)]]
    seeds[tuple(points.T)] = value
