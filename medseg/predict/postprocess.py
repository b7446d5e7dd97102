"""After the network: the largest part of a class, and holes that are filled."""

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


def tidy(
    labels: npt.NDArray[Any],
    regions: Mask | None,
    classes: Sequence[ClassInfo],
    keep_largest: Sequence[str],
    fill_holes: Sequence[str],
) -> list[str]:
    """Changes labels (*S), or regions (R, *S) where classes overlap, in place; returns a note for each change made.

    Parts touch by faces, edges or corners. A hole is filled where no class lies; other classes are left as they are.
    Raises UserError for names that are no classes.
    """
    notes = []
    for names, work in ((keep_largest, _keep_largest), (fill_holes, _fill_holes)):
        for position in positions(names, classes):
            note = work(labels, regions, position, classes[position])
            if note:
                notes.append(note)
    return notes


def apply_steps(
    labels: npt.NDArray[Any],
    regions: Mask | None,
    classes: Sequence[ClassInfo],
    steps: Sequence[Mapping[str, str]],
) -> list[str]:
    """Does the steps {step, class} that a cross-validation chose, in place and in their order; a note for each change.

    Raises UserError for a step that is unknown, or for a class that the model does not have.
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
            work = _keep_largest if step == "keep_largest" else _fill_holes
            note = work(labels, regions, position, classes[position])
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
                "predict.keep_largest, predict.fill_holes",
                f"the model's classes are {', '.join(known)}",
            )
    return [known.index(name) for name in names]


def largest_part(mask: Mask) -> Mask:
    """The largest connected part (26- or 8-neighbourhood); equal sizes: the first in memory."""
    import cc3d

    parts = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26 if mask.ndim == 3 else 8)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()


def _keep_largest(labels: npt.NDArray[Any], regions: Mask | None, position: int, info: ClassInfo) -> str:
    target = labels if regions is None else regions[position]
    whole = target == info.index if regions is None else target
    box = box_of(whole)
    if box is None:
        return ""
    dropped = whole[box] & ~largest_part(whole[box])
    count = int(np.count_nonzero(dropped))
    target[box][dropped] = 0
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

    target = labels if regions is None else regions[position]
    whole = target == info.index if regions is None else target
    box = box_of(whole)
    if box is None:
        return ""
    holes = binary_fill_holes(whole[box]) & ~whole[box]
    if regions is None:
        holes &= target[box] == 0
    count = int(np.count_nonzero(holes))
    target[box][holes] = info.index if regions is None else True
    return f"{info.name}: {count} voxels of enclosed holes were filled" if count else ""
