"""Whether an image lies as the training images did: headers that are wrong about a side, found by the image itself.

A model folder keeps a coarse mean of its training images in RAS order: blocks of at least 15 mm, of at least 5 cases,
in the network's intensities, with how much the cases agree in each block. A new image is laid on it at the shift that
fits best, once as it is and once mirrored along each axis. Where it fits clearly better mirrored, its header is
probably wrong. Only axes along which the training cases themselves were told apart are looked at, and what looks
unlike the training images either way is left alone.

The fit is a correlation over the blocks that two boxes share, weighted, for all shifts at once (masked normalised
cross-correlation: Padfield 2012, doi:10.1109/TIP.2011.2181402).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

BLOCK_MM = 15.0
"""Blocks are at least this long: nothing that could name a person is left of an image."""

SIDE = 24
"""Blocks along each axis of a mean, and the most that are looked at of an image, around its middle."""

SMALLEST = 4
"""Images of fewer blocks along an axis show too little of a body."""

LONG = 10
"""Along an axis of fewer blocks an image shows an organ or two, and nothing is said: the crop of a spleen fitted chests
better upside down."""

FINE_MM = 5.0
"""Voxels are skipped as long as this distance is kept: the mean over a block needs no more."""

SHARED = 0.5
"""Share of the largest overlap that a shift has to leave, counted in weights."""

UNLIKE = 0.05
"""An image that correlates this much less than the least fitting training case is left alone."""

NAMES = ("left-right", "front-back", "head-foot")


class Template(NamedTuple):
    """A mean image (24, 24, 24) and the weight of each block, 0 where too few cases were seen."""

    mean: Floats
    weight: Floats


class Upright(NamedTuple):
    """What a model folder keeps.

    step_mm: edge of a block. cases: how many were averaged. fit: the lowest correlation of a training case with the
    mean of the others. below: per axis, an image whose lead (correlation as it is, less that mirrored) lies below this
    is mirrored; None for axes along which the training cases were not told apart.
    """

    template: Template
    step_mm: float
    cases: int
    fit: float
    below: tuple[float | None, ...]

    def as_json(self) -> dict[str, Any]:
        """Facts for model.json, in 255 grey values."""
        mean, weight = self.template
        low, high = float(mean[weight > 0].min()), float(mean[weight > 0].max())
        grey = np.rint((mean - low) * (255 / max(high - low, 1e-6)))
        return {
            "mean": _packed(np.clip(grey, 0, 255)),
            "weight": _packed(np.where(weight > 0, np.clip(np.rint(weight * 255), 1, 255), 0)),
            "shape": [SIDE] * 3,
            "step_mm": round(self.step_mm, 3),
            "cases": self.cases,
            "fit": round(self.fit, 4),
            "below": [None if below is None else round(below, 4) for below in self.below],
        }

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Upright:
        """What `as_json` wrote; ValueError, TypeError or KeyError for anything else.

        Scale and offset of the mean are lost: a correlation needs neither.
        """
        template = Template(_unpacked(facts["mean"]), _unpacked(facts["weight"]) / 255)
        below = tuple(None if value is None else float(value) for value in facts["below"])
        if len(below) != 3 or not template.weight.any() or not float(facts["step_mm"]) >= BLOCK_MM:
            raise ValueError("expected three axes, seen blocks and a step of at least 15 mm")
        return cls(template, float(facts["step_mm"]), int(facts["cases"]), float(facts["fit"]), below)


class Fits(NamedTuple):
    """Best correlations of an image with a template, as it is and mirrored along each axis; where the first was found.

    place: block of the template on which the image's first block lies.
    """

    upright: float
    mirrored: tuple[float, ...]
    place: tuple[int, ...]

    @property
    def leads(self) -> tuple[float, ...]:
        return tuple(self.upright - one for one in self.mirrored)


def mirrored_flags(
    facts: Mapping[str, Any] | None, array: npt.NDArray[Any], spacing_mm: Sequence[float]
) -> list[str]:
    """What is to be looked at because the image (*S), prepared and in RAS order, fits better mirrored.

    facts: `upright` of model.json; nothing is said without them.
    """
    if not facts or array.ndim != 3:
        return []
    try:
        known = Upright.from_json(facts)
    except (ValueError, TypeError, KeyError):
        return ["the model's own picture of an upright image is damaged: sides were not checked"]
    image = coarse(array, spacing_mm, known.step_mm)
    if min(image.shape) < SMALLEST or not any(below is not None for below in known.below):
        return []
    found = fits(image, known.template)
    if max(found.upright, *found.mirrored) < known.fit - UNLIKE:
        return []
    leads = {
        name: lead
        for name, lead, below, blocks in zip(NAMES, found.leads, known.below, image.shape)
        if below is not None and lead < below and blocks >= LONG
    }
    if not leads:
        return []
    name = min(leads, key=lambda one: leads[one])
    return [
        f"the image looks mirrored {name}: turned round it fits the training images better (correlation "
        f"{found.upright - leads[name]:.2f}, as it is {found.upright:.2f}); is the header right?"
    ]


def coarse(array: npt.NDArray[Any], spacing_mm: Sequence[float], step_mm: float) -> Floats:
    """Means over blocks of step_mm of an image (*S) in RAS order, at most 24 along an axis, around its middle."""
    thin = [max(1, int(FINE_MM / s)) for s in spacing_mm]
    out = np.asarray(array[tuple(slice(k // 2, None, k) for k in thin)], np.float32)
    for axis, (spacing, k) in enumerate(zip(spacing_mm, thin)):
        size = step_mm / (spacing * k)
        blocks = min(SIDE, int(array.shape[axis] * spacing / step_mm), out.shape[axis])
        if blocks < 1:
            return np.zeros((0, 0, 0), np.float32)
        edges = out.shape[axis] / 2 + (np.arange(blocks + 1) - blocks / 2) * size
        edges = np.clip(np.floor(edges + 0.5).astype(int), 0, out.shape[axis])
        kept = out[(slice(None),) * axis + (slice(0, edges[-1]),)]
        lengths = np.maximum(np.diff(edges), 1).reshape([-1 if a == axis else 1 for a in range(3)])
        out = np.add.reduceat(kept, edges[:-1], axis=axis) / lengths
    return out.astype(np.float32)


def fits(image: Floats, template: Template, mirrors: Sequence[int] = (0, 1, 2)) -> Fits:
    """How well an image of blocks fits a template at its best shift, as it is and mirrored along `mirrors`."""
    from scipy.fft import irfftn, rfftn

    mean, weight = template
    size = [4 * -(-(n + m - 1) // 4) for n, m in zip(mean.shape, image.shape)]  # small factors are fast

    def forward(values: Floats) -> Any:
        return rfftn(values, size)

    def back(spectrum: Any) -> Any:
        return irfftn(spectrum, size)

    mean = np.where(weight > 0, mean - np.average(mean, weights=weight), 0).astype(np.float32)
    image = image - image.mean()
    weights, weighted = forward(weight), forward(weight * mean)
    # A box is its own mirror image, so that only what holds the image's values is done once a mirror.
    box = np.conj(forward(np.ones_like(image)))
    shared, sums = back(weights * box), back(weighted * box)
    enough = shared >= SHARED * shared.max()
    n, sums = shared[enough], sums[enough]
    spread = np.maximum(back(forward(weight * mean**2) * box)[enough] - sums**2 / n, 0)
    best, first = [], 0
    for axis in (None, *mirrors):
        turned = image if axis is None else np.flip(image, axis)
        values = np.conj(forward(turned))
        own = back(weights * values)[enough]
        own_spread = np.maximum(back(weights * np.conj(forward(turned**2)))[enough] - own**2 / n, 0)
        product = spread * own_spread
        both = back(weighted * values)[enough] - sums * own / n
        # Where nearly nothing varies, the quotient is noise.
        fit = np.where(product > 1e-4 * product.max(), both / np.sqrt(np.maximum(product, 1e-30)), -1.0)
        first = int(fit.argmax()) if axis is None else first
        best.append(float(fit.max()))
    place = np.argwhere(enough)[first]
    wrapped = tuple(int(p) if p < SIDE else int(p) - s for p, s in zip(place, size))
    return Fits(best[0], tuple(best[1:]), wrapped)


def _packed(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(values.astype(np.uint8).tobytes()).decode("ascii")


def _unpacked(text: str) -> Floats:
    values = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    return values.reshape(SIDE, SIDE, SIDE).astype(np.float32)
