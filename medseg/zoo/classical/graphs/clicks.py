"""Simulated clicks, as benchmarks of interactive segmentation make them: in the middle of the largest mistake."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medseg.core.prompt import Prompt
from medseg.zoo.classical.morphology import distance_mm

Mask = npt.NDArray[np.bool_]


def next_click(
    found: Mask, truth: Mask, spacing_mm: Sequence[float]
) -> tuple[npt.NDArray[np.float64], int] | None:
    """(place in mm, class) of the next click; None where nothing is wrong.

    The place is the voxel of the largest connected mistake that lies farthest from its edge; the class is 1 where the
    object was missed and 0 where background was taken.
    """
    from scipy import ndimage

    best: tuple[int, Mask, int] | None = None
    for wrong, value in ((truth & ~found, 1), (found & ~truth, 0)):
        parts, count = ndimage.label(wrong)
        if count:
            volume = np.bincount(parts.ravel())[1:]
            if best is None or volume.max() > best[0]:
                best = (int(volume.max()), parts == int(volume.argmax()) + 1, value)
    if best is None:
        return None
    inner = distance_mm(np.pad(best[1], 1), spacing_mm)[(slice(1, -1),) * truth.ndim]
    place = np.unravel_index(int(inner.argmax()), truth.shape)
    return np.asarray(place, dtype=float) * np.asarray(spacing_mm), best[2]


def with_click(prompt: Prompt, click: tuple[npt.NDArray[np.float64], int]) -> Prompt:
    """The prompt with one more point."""
    points = np.concatenate([prompt.points.reshape(-1, len(click[0])), click[0][None]])
    return Prompt(
        points=points,
        point_classes=np.append(prompt.point_classes, click[1]),
        boxes=prompt.boxes,
        box_classes=prompt.box_classes,
        scribbles=prompt.scribbles,
        mask=prompt.mask,
        text=prompt.text,
    )
