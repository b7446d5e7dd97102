"""Lungs on chest CT by threshold and components. After Hu, Hoffman, Reinhardt, IEEE TMI 2001, doi:10.1109/42.929615.

Air in the lungs is far darker than the body, so a threshold between the two, the body's outline, connected components
and a little morphology give the lungs without any training: air inside the body is cut out, trachea and main bronchi
are taken away, the two lungs are told apart by the patient's sides, and vessels inside them are filled.
Differs from the paper: the threshold is fixed (-400 HU) unless `threshold_hu: auto` asks for the paper's iteration;
airways are grown in 3D from a round dark disc and stop before they leak; touching lungs are parted by the nearest of
their cores rather than by a search for the junction line; a single lung is named by where the chest wall or the spine
lies; all morphology is 3D and in mm. Lung that is as dense as muscle (consolidation, effusion, large tumours) is
beyond any threshold: only what healthy lung encloses is filled.
Oracle: none kept; agreement with segmented lungs of real CT is tested where the data are at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError
from medseg.core.prompt import Prompt
from medseg.zoo.classical.lung_air import coarse_field, lung_air
from medseg.zoo.classical.lung_sides import LEFT, RIGHT, sides
from medseg.zoo.classical.morphology import Mask, closed, extent, filled

COARSE_MM = 1.5
"""Components are found on every n-th voxel where voxels are finer than this; the outline comes from all voxels."""
VESSEL_MM2 = 200.0
"""Cross-section of the largest vessel that is counted as lung where lung surrounds it in a slice."""


class LungThreshold:
    """Right lung (1) and left lung (2) of a chest CT, or both as one class with `merge`."""

    dims = (3,)

    def classes_of(self, merge: bool = False, **parameters: Any) -> Mapping[int, str]:
        return {1: "lung"} if merge else {RIGHT: "right lung", LEFT: "left lung"}

    def segment(
        self,
        image: npt.NDArray[Any],
        spacing_mm: Sequence[float],
        prompt: Prompt | None = None,
        threshold_hu: float | str = -400.0,
        closing_mm: float = 5.0,
        merge: bool = False,
    ) -> npt.NDArray[np.uint8]:
        """image (1, *S) in HU on RAS+ axes -> labels (*S).

        threshold_hu: what is darker may be lung; "auto" finds it from the image. closing_mm: vessels up to twice this
        width are counted as lung. merge: one class instead of two. A CT without lungs gives an empty mask.
        """
        if image.shape[0] != 1:
            raise UserError(
                f"an image of {image.shape[0]} channels",
                "system lung-threshold",
                "it works on one CT channel",
            )
        volume = image[0]
        threshold = chosen_threshold(volume, threshold_hu)
        step = tuple(max(1, int(COARSE_MM / s + 1e-6)) for s in spacing_mm)
        field = coarse_field(volume, spacing_mm, step, threshold)
        outside, lungs, pipes = lung_air(field)
        labels = sides(lungs, outside, field)
        labels = with_vessels(labels, outside | pipes, closing_mm, field.spacing_mm)
        labels = refined(labels, pipes | outside, volume < threshold, step)
        return (labels > 0).astype(np.uint8) if merge else labels


def chosen_threshold(volume: npt.NDArray[Any], wanted: float | str) -> float:
    """The threshold in HU; `auto` iterates to the middle of the means on either side, from -500."""
    threshold = -500.0 if wanted == "auto" else float(wanted)
    if volume.min() > threshold:
        raise UserError(
            f"no voxel is darker than {threshold:g} HU (the darkest is {float(volume.min()):g})",
            "system lung-threshold",
            "it needs a CT in Hounsfield units; MR images and rescaled CT have no fixed values for air",
        )
    if wanted != "auto":
        return threshold
    sample = np.clip(volume[:: max(1, volume.shape[0] // 128), :: max(1, volume.shape[1] // 128)], -1024, 400)
    for _ in range(50):
        dark = sample <= threshold
        if dark.all() or not dark.any():
            return threshold
        moved = float(sample[dark].mean() + sample[~dark].mean()) / 2
        if abs(moved - threshold) < 0.5:
            break
        threshold = moved
    return float(np.clip(threshold, -600, -300))


def with_vessels(
    labels: npt.NDArray[np.uint8], never: Mask, closing_mm: float, spacing_mm: Sequence[float]
) -> npt.NDArray[np.uint8]:
    """Closes and fills each lung; what is air elsewhere, or the other lung, is never taken."""
    result = labels.copy()
    for side in (RIGHT, LEFT):
        lung = labels == side
        if not lung.any():
            continue
        box = _box(lung, margin=[int(closing_mm / s) + 2 for s in spacing_mm])
        whole = filled(closed(lung[box], closing_mm, spacing_mm), spacing_mm, VESSEL_MM2)
        gain = whole & (result[box] == 0) & ~never[box]
        result[box][gain] = side
    return result


def _box(mask: Mask, margin: Sequence[int]) -> tuple[slice, ...]:
    """The bounding box of a mask with a margin, inside the array."""
    return tuple(
        slice(max(0, low - m), min(n, high + m + 1))
        for (low, high), m, n in zip((extent(mask, a) for a in range(3)), margin, mask.shape, strict=True)
    )


def refined(
    labels: npt.NDArray[np.uint8], never: Mask, air: Mask, step: Sequence[int]
) -> npt.NDArray[np.uint8]:
    """Coarse labels on the image's own grid; voxels at the coarse outline are decided by the image itself."""
    from scipy import ndimage

    if all(n == 1 for n in step):
        return labels
    grown = ndimage.grey_dilation(labels, size=(3, 3, 3))
    grown[never] = 0
    inner = np.where(ndimage.grey_erosion(labels, size=(3, 3, 3), mode="nearest") > 0, labels, 0)
    wide, sure = (_enlarged(part, step, air.shape) for part in (grown, inner))
    return np.where(sure > 0, sure, np.where(air, wide, 0)).astype(np.uint8)


def _enlarged(labels: npt.NDArray[Any], step: Sequence[int], shape: Sequence[int]) -> npt.NDArray[Any]:
    """Coarse voxels repeated onto the fine grid; coarse voxel i stands for fine voxels around i * step."""
    for axis, (n, length) in enumerate(zip(step, shape, strict=True)):
        index = np.minimum((np.arange(length) + n // 2) // n, labels.shape[axis] - 1)
        labels = labels.take(index, axis=axis)
    return labels
