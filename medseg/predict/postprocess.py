"""After the network: the largest part of a class, filled holes, parts too small or too dark or bright to be true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import UserError, did_you_mean
from medseg.core.segmentation import ClassInfo
from medseg.ingest.resample import box_of

Mask = npt.NDArray[np.bool_]

STEPS = ("keep_largest_of_all", "keep_largest", "fill_holes")
"""What a cross-validation may choose; the first takes all classes together, the others name their class."""


TORN = 0.2
"""Share of a class outside its largest part above which removing it is worth a look."""


def tidy(
    labels: npt.NDArray[Any],
    regions: Mask | None,
    classes: Sequence[ClassInfo],
    keep_largest: Sequence[str],
    fill_holes: Sequence[str],
    torn: list[str] | None = None,
) -> list[str]:
    """Changes labels (*S), or regions (R, *S) where classes overlap, in place; returns a note for each change made.

    Parts touch by faces, edges or corners. A hole is filled where no class lies; other classes are left as they are.
    torn: is given a sentence for every class of which the largest part was far from all, see TORN. Raises UserError
    for names that are no classes.
    """
    notes = []
    for position in positions(keep_largest, classes):
        notes.append(_keep_largest(labels, regions, position, classes[position], torn))
    for position in positions(fill_holes, classes):
        notes.append(_fill_holes(labels, regions, position, classes[position]))
    return [note for note in notes if note]


def remove_small(
    labels: npt.NDArray[Any],
    regions: Mask | None,
    classes: Sequence[ClassInfo],
    smallest_ml: Mapping[str, float],
    voxel_ml: float | None,
) -> list[str]:
    """Removes connected parts of the named classes below their volume in ml, in place; a note for each change.

    voxel_ml: volume of a voxel; None for photographs, which have none, so that naming a class raises UserError, as does
    a name that is no class.
    """
    notes = []
    for position, smallest in zip(positions(list(smallest_ml), classes), smallest_ml.values()):
        if voxel_ml is None:
            raise UserError(
                "volumes in ml need a voxel spacing, which this image does not have",
                "predict.smallest_part_ml",
                "leave it out for photographs",
            )
        note = _remove_small(labels, regions, position, classes[position], smallest, voxel_ml)
        if note:
            notes.append(note)
    return notes


def remove_unlikely(
    labels: npt.NDArray[Any],
    regions: Mask | None,
    classes: Sequence[ClassInfo],
    medians: Mapping[str, tuple[float | None, float | None]],
    image: npt.NDArray[Any],
    torn: list[str] | None = None,
) -> list[str]:
    """Removes connected parts of the named classes whose median in the image lies beyond their limits (low, high; None
    for no limit), in place; a note for each change. Gas in the bowel is not lung, whatever its shape: no tissue is in it.

    image: (C, *S) in the file's units; its first channel counts. torn: is given a sentence for every class of which
    more than TORN was removed. Raises UserError for a name that is no class.
    """
    notes = []
    for position, limits in zip(positions(list(medians), classes), medians.values()):
        note = _remove_unlikely(labels, regions, position, classes[position], limits, image[0], torn)
        if note:
            notes.append(note)
    return notes


def apply_steps(
    labels: npt.NDArray[Any],
    regions: Mask | None,
    classes: Sequence[ClassInfo],
    steps: Sequence[Mapping[str, str]],
    torn: list[str] | None = None,
) -> list[str]:
    """Does the steps {step, class} that a cross-validation chose, in place and in their order; a note for each change.

    torn: as in `tidy`. Raises UserError for a step that is unknown, or for a class that the model does not have.
    """
    notes = []
    for chosen in steps:
        step, name = str(chosen.get("step")), str(chosen.get("class"))
        if step not in STEPS:
            raise UserError(
                f"no post-processing is called {step!r}{did_you_mean(step, STEPS)}",
                "the model's postprocessing",
            )
        if step == "keep_largest_of_all":
            note = _keep_largest_of_all(labels, regions, classes)
        else:
            (position,) = positions([name], classes)
            if step == "keep_largest":
                note = _keep_largest(labels, regions, position, classes[position], torn)
            else:
                note = _fill_holes(labels, regions, position, classes[position])
        if note:
            notes.append(f"{note} (chosen by cross-validation)")
    return notes


def positions(names: Sequence[str], classes: Sequence[ClassInfo]) -> list[int]:
    """Where the named classes stand in `classes`."""
    known = [info.name for info in classes]
    for name in names:
        if name not in known:
            raise UserError(
                f"no class named {name!r}{did_you_mean(name, known)}",
                "predict.keep_largest, predict.fill_holes, predict.smallest_part_ml, predict.part_median",
                f"the model's classes are {', '.join(known)}",
            )
    return [known.index(name) for name in names]


def largest_part(mask: Mask) -> Mask:
    """The largest connected part (26- or 8-neighbourhood); equal sizes: the first in memory."""
    parts, sizes = _parts(mask)
    sizes[0] = 0
    return parts == sizes.argmax()


def _parts(mask: Mask) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The number of each voxel's connected part, 0 outside, and the voxels of each number."""
    import cc3d

    parts = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26 if mask.ndim == 3 else 8)
    return parts, np.bincount(parts.ravel())


def _found(
    labels: npt.NDArray[Any], regions: Mask | None, position: int, info: ClassInfo
) -> tuple[npt.NDArray[Any], Mask, tuple[slice, ...]] | None:
    """The smallest box that holds a class, as a view to write into, where the class is in it, and the box; None without
    any."""
    target = labels if regions is None else regions[position]
    whole = target == info.index if regions is None else target
    box = box_of(whole)
    return None if box is None else (target[box], whole[box], box)


def _remove_unlikely(
    labels: npt.NDArray[Any],
    regions: Mask | None,
    position: int,
    info: ClassInfo,
    limits: tuple[float | None, float | None],
    image: npt.NDArray[Any],
    torn: list[str] | None,
) -> str:
    import cc3d

    found = _found(labels, regions, position, info)
    if found is None:
        return ""
    target, mask, within = found
    image = image[within]
    low, high = limits
    removed, count = [], 0
    parts, sizes = _parts(mask)
    for number, box in enumerate(cc3d.statistics(parts)["bounding_boxes"][1:], start=1):
        inside = parts[box] == number
        median = float(np.median(image[box][inside]))
        if (low is not None and median < low) or (high is not None and median > high):
            target[box][inside] = 0
            removed.append(median)
            count += int(np.count_nonzero(inside))
    if not removed:
        return ""
    said = ", ".join(f"{median:.0f}" for median in removed[:5])
    share = count / int(sizes[1:].sum())
    if torn is not None and share > TORN:
        torn.append(
            f"{100 * share:.0f} % of {info.name} was removed: its median of {said} is not that of the class"
        )
    return f"{info.name}: {len(removed)} parts with a median of {said} were removed ({count} voxels)"


def _remove_small(
    labels: npt.NDArray[Any],
    regions: Mask | None,
    position: int,
    info: ClassInfo,
    smallest: float,
    voxel_ml: float,
) -> str:
    found = _found(labels, regions, position, info)
    if found is None:
        return ""
    target, mask, _ = found
    parts, sizes = _parts(mask)
    # A part of exactly that volume stays, whatever the last bit of voxel_ml.
    small = sizes * voxel_ml < smallest * (1 - 1e-9)
    small[0] = False
    dropped = small[parts]
    count = int(np.count_nonzero(dropped))
    target[dropped] = 0
    number = int(small.sum())
    return f"{info.name}: {number} parts below {smallest:g} ml were removed ({count} voxels)" if count else ""


def _keep_largest(
    labels: npt.NDArray[Any],
    regions: Mask | None,
    position: int,
    info: ClassInfo,
    torn: list[str] | None = None,
) -> str:
    found = _found(labels, regions, position, info)
    if found is None:
        return ""
    target, mask, _ = found
    dropped = mask & ~largest_part(mask)
    count = int(np.count_nonzero(dropped))
    share = count / int(np.count_nonzero(mask))
    target[dropped] = 0
    if torn is not None and share > TORN:
        torn.append(
            f"{info.name} is one part, but was found in several: {100 * share:.0f} % of it lay outside the largest"
        )
    return f"{info.name}: {count} voxels outside the largest part were removed" if count else ""


def _keep_largest_of_all(labels: npt.NDArray[Any], regions: Mask | None, classes: Sequence[ClassInfo]) -> str:
    """Keeps the largest connected part of all classes together."""
    if regions is None:
        whole = np.isin(labels, [info.index for info in classes if info.index])
    else:
        whole = regions.any(axis=0)
    box = box_of(whole)
    if box is None:
        return ""
    dropped = whole[box] & ~largest_part(whole[box])
    count = int(np.count_nonzero(dropped))
    for target in [labels] if regions is None else list(regions):
        target[box][dropped] = 0
    return f"{count} voxels outside the largest part of all classes were removed" if count else ""


def _fill_holes(labels: npt.NDArray[Any], regions: Mask | None, position: int, info: ClassInfo) -> str:
    from scipy.ndimage import binary_fill_holes

    found = _found(labels, regions, position, info)
    if found is None:
        return ""
    target, mask, _ = found
    holes = binary_fill_holes(mask) & ~mask
    if regions is None:
        holes &= target == 0
    count = int(np.count_nonzero(holes))
    target[holes] = info.index if regions is None else True
    return f"{info.name}: {count} voxels of enclosed holes were filled" if count else ""
