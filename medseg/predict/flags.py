"""What makes a result worth a second look: an image unlike the training images, a result unlike the training labels.

A flag is one sentence with the number that raised it. Flags never change a mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.config import Plan
from medseg.core.case import Image
from medseg.core.geometry import Geometry
from medseg.core.segmentation import ClassInfo, Segmentation, in_ml, side_pairs
from medseg.ingest.intensity import sample

AIR_HU = -200
"""Some of a CT is air (around or inside the body), so its darkest percent lies below this."""

RAW_CT_HU = 1000
"""Half of the voxels above this: raw scanner values, which are stored with 1024 added, or no CT at all."""

NARROW_HU = 200
"""A CT spans air to bone; less than this between its 1st and 99th percentile means other numbers."""

COARSE = 4.0
"""Voxels this many times larger than the network's grid show too little of it."""

VOLUME_MARGIN = 2.0
"""Volumes up to this factor outside the training range pass: people differ more than small cohorts do."""

SIDE_RATIO = 4.0
"""Left and right organs whose volumes differ more than this."""

BORDER_SHARE = 0.001
"""Share of a class's voxels on the border of the field of view that counts as cut off."""

OFTEN_ON_BORDER = 0.2
"""Classes that ran into the border in this share of the training cases are not looked at for it."""


def input_flags(image: Image, plan: Plan) -> list[str]:
    """What of the image does not look like the images that the model was trained on."""
    flags = _of_modality(image, plan)
    values = sample(image.array[0], 200_000)
    low, half, high = (float(v) for v in np.percentile(values, (1, 50, 99)))
    if low == high:
        return [*flags, f"the image is empty: almost every voxel is {low:g}"]
    if _is_ct(plan):
        if low > AIR_HU or half > RAW_CT_HU or high - low < NARROW_HU:
            flags.append(
                f"the values (1 % below {low:.0f}, half above {half:.0f}, 1 % above {high:.0f})"
                " do not look like Hounsfield units"
            )
    elif plan.intensity[0].scheme.startswith("zscore") and half <= -500:
        flags.append(f"half of the values lie below {half:.0f}: this looks like a CT, the model knows none")
    return [*flags, *_of_grid(image.geometry, plan)]


def _is_ct(plan: Plan) -> bool:
    return plan.intensity[0].scheme in ("ct", "window")


def _of_modality(image: Image, plan: Plan) -> list[str]:
    found = image.modality.upper()
    if _is_ct(plan) and found not in ("", "CT", "PHOTO", "OTHER"):
        return [f"the file says it is {found}; the model was trained on CT"]
    if not _is_ct(plan) and found == "CT" and plan.dims == 3:
        return ["the file says it is CT; the model was trained on other images"]
    return []


def _of_grid(geometry: Geometry, plan: Plan) -> list[str]:
    if plan.spacing_mm is None or geometry.unit == "px":
        return []
    turned, _, _ = geometry.reoriented()
    ratios = [have / want for have, want in zip(turned.spacing, plan.spacing_mm)]
    if max(ratios) <= COARSE:
        return []
    axis = int(np.argmax(ratios))
    return [
        f"voxels of {turned.spacing[axis]:.1f} mm along axis {'RAS'[axis]} are {max(ratios):.1f} times those of "
        f"the network's grid"
    ]


def output_flags(seg: Segmentation, voxels: Mapping[str, int], plan: Plan) -> list[str]:
    """What of the result does not look like the labels of the training cases. voxels: class -> number."""
    if not any(voxels.values()):
        return ["nothing was found"]
    flags = []
    litre = seg.geometry.voxel_volume_ml
    for info in seg.classes:
        span = plan.volume_ml.get(info.name)
        if span is None or litre is None:
            continue
        flags += _of_volume(info.name, voxels[info.name] * litre, span[0], span[1])
    return [*flags, *_of_sides(seg, voxels, plan)]


def _of_volume(name: str, volume: float, smallest: float, largest: float) -> list[str]:
    span = f"in training {in_ml(smallest)} to {in_ml(largest)}"
    if volume == 0:
        return [f"{name} was not found; {span}"] if smallest > 0 else []
    if volume < smallest / VOLUME_MARGIN or volume > largest * VOLUME_MARGIN:
        return [f"{name} has {in_ml(volume)}; {span}"]
    return []


def _of_sides(seg: Segmentation, voxels: Mapping[str, int], plan: Plan) -> list[str]:
    flags = []
    for left, right in side_pairs(seg.classes):
        a, b = voxels[left.name], voxels[right.name]
        if not a or not b:
            # What was trained on knows whether a side may be absent (see _of_volume); a classical method does not.
            if (a or b) and not {left.name, right.name} & set(plan.volume_ml):
                missing, there = (left.name, right.name) if b else (right.name, left.name)
                flags.append(f"{missing} was not found, {there} was")
            continue
        if max(a, b) > SIDE_RATIO * min(a, b):
            flags.append(f"{left.name} and {right.name} differ {max(a, b) / min(a, b):.1f} times in volume")
        if seg.geometry.ndim == 3 and _middle_x(seg, left) > _middle_x(seg, right):
            flags.append(
                f"{left.name} lies to the right of {right.name}: is the header's left-right correct?"
            )
    return flags


def _middle_x(seg: Segmentation, info: ClassInfo) -> float:
    """Mean position along the patient's left-right axis in mm (RAS+: grows to the right)."""
    step = max(1, round((seg.labels.size / 4e6) ** (1 / 3)))
    thin = tuple(slice(None, None, step) for _ in seg.labels.shape)
    mask = seg.mask(seg.classes.index(info))[thin]
    places = np.argwhere(mask)
    if not len(places):
        places = np.argwhere(seg.mask(seg.classes.index(info))) / step
    return float(seg.geometry.to_world(places.mean(axis=0) * step)[0])


def cut_off(seg: Segmentation, voxels: Mapping[str, int]) -> dict[str, str]:
    """Class -> reason why its volume is not known: it touches the border of the field of view."""
    if seg.geometry.unit == "px" or seg.geometry.ndim != 3:
        return {}
    reasons = {}
    for position, info in enumerate(seg.classes):
        count = _on_border(seg, position)
        if count > max(9, BORDER_SHARE * voxels[info.name]):
            reasons[info.name] = (
                f"{info.name}: {count} voxels lie on the border of the field of view, so its volume is not known"
            )
    return reasons


def border_flags(unknown: Mapping[str, str], plan: Plan) -> list[str]:
    """Reasons of `cut_off` that are worth a look: those of classes that in training lay inside the field of view.

    An aorta leaves every chest CT, a lung should not. What nobody knows of a class is worth a look as well.
    """
    return [reason for name, reason in unknown.items() if plan.on_border.get(name, 0.0) < OFTEN_ON_BORDER]


def _on_border(seg: Segmentation, position: int) -> int:
    array: npt.NDArray[Any] = seg.labels if seg.regions is None else seg.regions[position]
    value = seg.classes[position].index if seg.regions is None else True
    # Views: `take` would copy across the memory of the whole volume.
    planes = [
        array[(slice(None),) * axis + (i,)] for axis, n in enumerate(array.shape) if n > 1 for i in (0, -1)
    ]
    return max((int(np.count_nonzero(plane == value)) for plane in planes), default=0)
