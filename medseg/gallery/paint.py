"""From an image and labels to a small picture: the input on the left, what the method made of it on the right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.atomic import atomic_path
from medseg.core.prompt import Prompt

HEIGHT_PX = 170
WIDEST_PX = 240
GAP_PX = 6
LARGEST_BYTES = 25_000
COLOURS = np.array(
    [(50, 220, 90), (60, 150, 240), (250, 190, 40), (230, 60, 60), (190, 90, 220), (30, 200, 210), (250, 130, 60),
     (160, 160, 60)], dtype=np.float32
)  # fmt: skip
OBJECT, BACKGROUND, BOX = (60, 230, 90), (250, 70, 70), (255, 220, 0)
"""Colours of what was pointed at."""

Picture = npt.NDArray[np.uint8]


def as_picture(image: npt.NDArray[Any], upright: bool) -> Picture:
    """(C, H, W) -> (H, W, 3) for the eye: percentiles 0.5 to 99.5 fill the range. upright: RAS+ slices are turned."""
    array = np.moveaxis(np.asarray(image, dtype=np.float32), 0, -1)
    array = array if array.shape[-1] == 3 else np.repeat(array[..., :1], 3, axis=-1)
    if image.dtype != np.uint8:
        low, high = np.percentile(array, [0.5, 99.5])
        array = (array - low) * (255 / max(float(high - low), 1e-9))
    return turned(np.clip(array, 0, 255).astype(np.uint8), upright)


def turned(array: npt.NDArray[Any], upright: bool) -> npt.NDArray[Any]:
    """A slice (right, front) in the way radiologists look at it: front above, the patient's right on the left."""
    return np.ascontiguousarray(np.flip(np.swapaxes(array, 0, 1), (0, 1))) if upright else array


def with_labels(base: Picture, labels: npt.NDArray[Any]) -> Picture:
    """Labels over a picture: tinted, with an outline. One label: a light tint, so that the outline shows."""
    from skimage.segmentation import find_boundaries

    out = base.astype(np.float32)
    values = np.unique(labels[labels > 0])
    tint = 0.35 if len(values) <= 1 else 0.5
    for number, value in enumerate(values):
        inside = labels == value
        out[inside] = (1 - tint) * out[inside] + tint * COLOURS[number % len(COLOURS)]
    edges = find_boundaries(labels, mode="inner")
    out[edges] = (
        (255, 255, 255) if len(values) > 8 else COLOURS[(labels[edges].astype(int) - 1) % len(COLOURS)]
    )
    return out.astype(np.uint8)


def with_prompt(base: Picture, prompt: Prompt | None, upright: bool, at: int | None) -> Picture:
    """What was pointed at, drawn over a picture. at: the slice that is shown, None in 2D."""
    out = base.copy()
    if prompt is None:
        return out
    if len(prompt.points) and at is None:
        dots = np.zeros(base.shape[:2], dtype=bool)
        dots[tuple(np.rint(prompt.points).astype(int).T)] = True
        out[_larger(_larger(dots))] = OBJECT
    if prompt.mask is not None:
        # A volume's dots are shown through all its slices: few of them lie in the one that is shown.
        mask = np.asarray(prompt.mask)
        flat = mask if at is None else mask.max(axis=-1, where=mask != 255, initial=0)
        far = mask == 255 if at is None else (mask == 255).any(axis=-1)
        out[turned(_larger(far), upright)] = BACKGROUND
        out[turned(_larger(flat == 1), upright)] = OBJECT
    return out


def _larger(dots: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Dots that can still be seen when the picture is made small."""
    from scipy.ndimage import binary_dilation

    steps = max(1, max(dots.shape) // 110)
    return np.asarray(binary_dilation(dots, iterations=steps))


def with_box(base: Picture, box: tuple[slice, ...] | None, upright: bool) -> Picture:
    """A box's outline over a picture."""
    out = base.copy()
    if box is None:
        return out
    lines = np.zeros(tuple(reversed(base.shape[:2])) if upright else base.shape[:2], dtype=bool)
    rows, columns = box[0], box[1]
    lines[rows, columns] = True
    lines[rows.start + 1 : rows.stop - 1, columns.start + 1 : columns.stop - 1] = False
    out[turned(lines, upright)] = BOX
    return out


def save_pair(path: Path, left: Picture, right: Picture) -> int:
    """Writes two pictures side by side as WebP of at most `LARGEST_BYTES`; returns its bytes."""
    from PIL import Image

    pair = [_sized(Image.fromarray(side)) for side in (left, right)]
    sheet = Image.new("RGB", (pair[0].width + GAP_PX + pair[1].width, pair[0].height), (255, 255, 255))
    sheet.paste(pair[0], (0, 0))
    sheet.paste(pair[1], (pair[0].width + GAP_PX, 0))
    with atomic_path(path) as part:
        for quality in (80, 65, 50, 35, 20):
            sheet.save(part, "WEBP", quality=quality, method=6)
            if part.stat().st_size <= LARGEST_BYTES:
                break
        size = part.stat().st_size
    return size


def _sized(image: Any) -> Any:
    """The picture in the gallery's height, or narrower where it is broad."""
    from PIL import Image

    scale = min(HEIGHT_PX / image.height, WIDEST_PX / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
