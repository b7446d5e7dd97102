"""Which windows of a CT hold nothing but the air around the body, and need no network.

The rule, in millimetres, on the image as it was stored:
- blocks of about 6 mm whose mean lies below -950 HU are air (lung lies above, emphysema included);
- air is outside the body where it is connected, through air, with a side face of the volume (right, left, front, back;
  never its top or bottom, where a trachea may be cut);
- two blocks of this air next to anything else are kept as a margin;
- a window is left out when all blocks it touches are air outside the body and no margin.

What a left out window covers becomes background. So a label can only change from a class to background, and only
within such air: where the network says background, nothing changes (but for voxels where two classes tie to the last
digits of float32). A network that finds a class in a window of pure
air is one for which this does not hold, and nothing is left out for it.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.config import Plan
from medseg.core.case import Image
from medseg.core.geometry import Geometry, reorient_array
from medseg.ingest.crop import AIR_HU, BODY_GRID_MM, block_means
from medseg.predict.windows import Cut, Skip

if TYPE_CHECKING:
    from torch import Tensor

    from medseg.ingest.prepare import PreparedImage

MARGIN_BLOCKS = 2

PURE_AIR_HU = -1000.0

Mask = npt.NDArray[np.bool_]


def knows_air(plan: Plan) -> bool:
    """Whether the plan's images are CT volumes in HU and its network has a way to say "nothing here"."""
    return (
        plan.dims == 3
        and plan.in_channels == 1
        and plan.intensity[0].scheme in ("ct", "window")
        and (plan.background or plan.overlapping)
    )


def air_windows(image: Image, prepared: PreparedImage, plan: Plan, cut: Cut) -> Skip:
    """The windows of a prepared image that need not be computed."""
    background = plan.background and not plan.overlapping
    if not knows_air(plan) or not prepared.straight:
        return Skip(frozenset(), background)
    turned, order, flips = image.geometry.reoriented()
    safe, step = outside_air(reorient_array(image.array, order, flips)[0], turned)
    if not safe.any():
        return Skip(frozenset(), background)
    spans = [_block_spans(prepared, cut, step, axis) for axis in range(3)]
    found = {
        window
        for window in product(*(range(len(axis)) for axis in spans))
        if safe[tuple(axis[i] for axis, i in zip(spans, window))].all()
    }
    return Skip(frozenset(found), background)


def outside_air(array: npt.NDArray[Any], geometry: Geometry) -> tuple[Mask, tuple[int, ...]]:
    """Blocks of a CT (*S) in HU, RAS-ordered, that are air outside the body with the margin taken off.

    Returns the blocks and their size in voxels.
    """
    step = tuple(max(1, int(BODY_GRID_MM / s)) for s in geometry.spacing)
    air = block_means(array, step) < AIR_HU
    if not air.any():
        return air, step
    from scipy.ndimage import binary_dilation, label

    parts, count = label(air)
    faces = [parts.take(end, axis) for axis in (0, 1) for end in (0, -1)]
    reached = np.zeros(count + 1, bool)
    for face in faces:
        reached[np.unique(face)] = True
    reached[0] = False
    outside = reached[parts]
    if not outside.any():
        return outside, step
    cube = np.ones((3, 3, 3), bool)
    return ~binary_dilation(~outside, cube, iterations=MARGIN_BLOCKS), step


def pure_air(plan: Plan, shape: tuple[int, ...]) -> Tensor:
    """A window (1, 1, *shape) of nothing but air, as the network would see it."""
    import torch

    from medseg.ingest.intensity import apply

    value = apply(np.full((1, 1, 1), PURE_AIR_HU, np.float32), plan.intensity[0]).item()
    return torch.full((1, 1, *shape), float(value))


def calls_air_background(logits: Tensor, plan: Plan) -> bool:
    """Whether logits (1, K, *S) of a window of pure air name no class anywhere."""
    if plan.overlapping:
        return not bool((logits > 0).any())
    return not bool(logits.argmax(1).any())


def _block_spans(prepared: PreparedImage, cut: Cut, step: tuple[int, ...], axis: int) -> list[slice]:
    """The blocks of the stored image that each window touches along one axis."""
    n, whole = prepared.geometry.shape[axis], prepared.high[axis] - prepared.low[axis]
    below, patch = cut.below(prepared.geometry.shape)[axis], cut.patch[axis]
    spans = []
    for start in cut.starts(prepared.geometry.shape)[axis]:
        first, last = max(0, start - below), min(n, start - below + patch)
        low = prepared.low[axis] + first * whole // n
        high = prepared.low[axis] - (-last * whole // n)
        spans.append(slice(low // step[axis], -(-high // step[axis])))
    return spans
