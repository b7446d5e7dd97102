"""The picture of an upright case that a model folder keeps, made of the prepared training cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medseg.config import Plan
from medseg.predict.upright import BLOCK_MM, SIDE, SMALLEST, Fits, Floats, Template, Upright, coarse, fits

CASES = 5
"""A mean of fewer cases might show one of them."""

MANY = 20
"""Fewer cases than this show too little of their spread: three standard deviations are kept away from it as well."""

MOST = 40
"""Cases that are looked at, spread evenly over their names."""

PASSES = 3
"""Each pass lays the cases on the mean of the others, as the pass before had it."""

OFTEN = 0.5
"""Share of the cases in which a block has to be seen."""

TOLD = 0.95
"""Share of the training cases that have to fit better as they are, for an axis to be looked at."""

CAUGHT = 2 / 3
"""Share of the training cases that would be noticed if they were mirrored, for an axis to be looked at."""

LEAST_LEAD = 0.02
"""Correlations that differ by less on the mean say nothing, however steadily they do."""


class Placed(NamedTuple):
    """A case's blocks where they lie on the mean: values (24, 24, 24), 0 beyond the image, and where it is."""

    values: Floats
    seen: Floats


def upright_facts(cases: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """`{"upright": ...}` for model.json from the prepared cases; {} where they are too few, too small or flat."""
    if plan.dims != 3 or len(cases) < CASES:
        return {}
    names = sorted(cases)
    chosen = [cases[names[i]] for i in np.unique(np.linspace(0, len(names) - 1, MOST).round().astype(int))]
    if any(case.geometry.unit == "px" for case in chosen):
        return {}
    longest = [max(n * s for n, s in zip(case.shape, case.geometry.spacing)) for case in chosen]
    step = max(BLOCK_MM, float(np.median(longest)) / SIDE)
    images = [
        coarse(case.read_image((0, 0, 0), case.shape)[0], case.geometry.spacing, step) for case in chosen
    ]
    made = upright_of([image for image in images if min(image.shape) >= SMALLEST], step)
    return {} if made is None else {"upright": made.as_json()}


def upright_of(images: Sequence[Floats], step_mm: float) -> Upright | None:
    """The mean of images of blocks of step_mm, and along which axes it tells an image from its mirror image.

    None for fewer than 5 images, and where no axis is told apart.
    """
    if len(images) < CASES:
        return None
    placed = [_place(image, _about_the_body(image)) for image in images]
    found: list[Fits] = []
    for number in range(PASSES):
        mirrors = (0, 1, 2) if number == PASSES - 1 else ()
        found = [fits(image, _mean_without(placed, i), mirrors) for i, image in enumerate(images)]
        placed = [_place(image, one.place) for image, one in zip(images, found)]
    leads = np.array([one.leads for one in found])
    below = tuple(_threshold(leads[:, axis]) for axis in range(3))
    if not any(value is not None for value in below):
        return None
    return Upright(
        _mean_without(placed, None), step_mm, len(images), min(one.upright for one in found), below
    )


def _threshold(leads: Any) -> float | None:
    """The lead below which an image is mirrored, from those of the training cases; None where there is none.

    A mirrored training case would have its lead with the other sign, so that sure and false alarms are both known.
    """
    lead, least = float(leads.mean()), float(leads.min())
    below = min(-lead / 2, least - lead / 4)
    if len(leads) < MANY:
        below = min(below, lead - 3 * float(leads.std()))
    told, caught = float((leads > 0).mean()), float((-leads < below).mean())
    return below if lead >= LEAST_LEAD and told >= TOLD and caught >= CAUGHT else None


def _mean_without(placed: Sequence[Placed], left_out: int | None) -> Template:
    """The mean of all cases but one; blocks weigh the more, the more the cases agree in them."""
    used = [one for i, one in enumerate(placed) if i != left_out]
    count = np.sum([one.seen for one in used], axis=0)
    share = 1 / np.maximum(count, 1)
    mean = np.sum([one.values for one in used], axis=0) * share
    spread = np.maximum(np.sum([one.values**2 for one in used], axis=0) * share - mean**2, 0)
    seen = count >= max(2, OFTEN * len(used))
    if not seen.any():
        seen = count == count.max()
    weight = np.where(seen, 1 / (spread + max(float(np.median(spread[seen])), 1e-6)), 0)
    return Template(np.where(seen, mean, 0).astype(np.float32), (weight / weight.max()).astype(np.float32))


def _about_the_body(image: Floats) -> tuple[int, ...]:
    """Where the image's first block lies when the centre of what is bright lies in the middle."""
    bright = np.argwhere(image >= (image.min() + image.max()) / 2)
    return tuple(SIDE // 2 - round(float(centre)) for centre in bright.mean(axis=0))


def _place(image: Floats, first: Sequence[int]) -> Placed:
    values, seen = np.zeros((2, SIDE, SIDE, SIDE), np.float32)
    low = [max(0, at) for at in first]
    high = [min(SIDE, at + n) for at, n in zip(first, image.shape)]
    if all(a < b for a, b in zip(low, high)):
        there = tuple(slice(a, b) for a, b in zip(low, high))
        values[there] = image[tuple(slice(a - at, b - at) for a, b, at in zip(low, high, first))]
        seen[there] = 1
    return Placed(values, seen)
