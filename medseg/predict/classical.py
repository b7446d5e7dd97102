"""Classical methods walk the same road: upright array in, labels on the case's own grid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.case import Image
from medseg.core.errors import UserError
from medseg.core.geometry import Geometry, reorient_array, restore_array
from medseg.core.prompt import Prompt
from medseg.core.segmentation import ClassInfo, default_colour

HALF = 0.5 + 1e-6
"""A place may lie this many voxels beyond the outermost centres: the voxels' own edges, and rounding."""


def segment_classical(method: Any, image: Image, prompt: Prompt | None = None) -> npt.NDArray[np.uint8]:
    """The method's own label values (*S) in the file's axis order.

    prompt: in patient mm or px, its classes being the method's values. UserError for places outside the image.
    """
    turned, order, flips = image.geometry.reoriented()
    if prompt is not None:
        prompt = on_grid(prompt, image.geometry)
    labels = method.segment(reorient_array(image.array, order, flips), turned.spacing, prompt)
    return np.ascontiguousarray(restore_array(labels, order, flips))


def segment_as(
    method: Any, image: Image, classes: Sequence[ClassInfo], prompt: Prompt | None = None
) -> tuple[npt.NDArray[Any], tuple[ClassInfo, ...]]:
    """Labels in the indices of `classes` (else the method's own, see `translate`), and what they mean.

    prompt: as given: its class 1 is the first of `classes`. UserError for classes that the method does not tell apart.
    """
    if prompt is not None:
        method = method.counting(len(classes))
        prompt = in_values_of(prompt, method, classes)
    return translate(segment_classical(method, image, prompt), method, classes)


def translate(
    labels: npt.NDArray[np.uint8], method: Any, classes: Sequence[ClassInfo]
) -> tuple[npt.NDArray[Any], tuple[ClassInfo, ...]]:
    """The method's values -> the indices of `classes`: by name, else in order when there are equally many.

    Where neither fits, the method's own classes are returned; what has no partner among `classes` becomes background.
    """
    own: Mapping[int, str] = method.classes
    table = partners(own, classes)
    if not table:
        found = tuple(ClassInfo(own[v], v, default_colour(n)) for n, v in enumerate(sorted(own)))
        return labels, found
    largest = max(table.values())
    lookup = np.zeros(256, dtype=np.uint8 if largest < 256 else np.uint16)
    for value, index in table.items():
        lookup[value] = index
    return lookup[labels], tuple(classes)


def partners(own: Mapping[int, str], classes: Sequence[ClassInfo]) -> dict[int, int]:
    """A method's value -> index among `classes`, by name, else in order when there are equally many; else empty."""
    by_name = {_plain(info.name): info for info in classes}
    table = {value: by_name[_plain(name)].index for value, name in own.items() if _plain(name) in by_name}
    if not table and len(own) == len(classes):
        table = {value: info.index for value, info in zip(sorted(own), classes)}
    return table


def in_values_of(prompt: Prompt, method: Any, classes: Sequence[ClassInfo]) -> Prompt:
    """The prompt with the method's own values instead of places among `classes` (1 is the first)."""
    own: Mapping[int, str] = method.classes
    values = {index: value for value, index in partners(own, classes).items()}
    table = {n: values[info.index] for n, info in enumerate(classes, 1) if info.index in values}
    table = table or dict(enumerate(sorted(own), 1))
    if strange := [c for c in prompt.classes if c not in table]:
        names = {n: info.name for n, info in enumerate(classes, 1)}
        raise UserError(
            f"the prompt has the class {names.get(strange[0], strange[0])}, and {method.name} segments "
            f"{', '.join(own.values())}",
            f"system {method.name}",
            "give prompts of classes that this method tells apart, or take another method",
        )
    return prompt.with_classes(table)


def on_grid(prompt: Prompt, geometry: Geometry) -> Prompt:
    """Patient mm -> mm along the axes of the upright array, from the centre of its first voxel; px stay.

    A box covers the voxels whose centres lie in it, the highest corner excluded; on a grid that is turned against
    the patient's axes it is the box around it. Raises UserError with both ranges for places outside the image.
    """
    turned, order, flips = geometry.reoriented()
    step = np.ones(2) if geometry.ndim == 2 else np.asarray(turned.spacing)

    def placed(places: Any, what: str) -> npt.NDArray[np.float64]:
        index = _index(places, turned)
        _require_inside(index, np.asarray(places, dtype=np.float64), turned, what)
        return np.clip(index, 0, np.asarray(turned.shape) - 1) * step

    mask = prompt.mask
    if mask is not None:
        if np.shape(mask) != geometry.shape:
            raise UserError(
                f"the mask of scribbles has shape {np.shape(mask)}, its image {geometry.shape}",
                "prompt",
                "draw the scribbles on the image's own grid",
            )
        mask = np.ascontiguousarray(reorient_array(np.asarray(mask), order, flips))
    points = placed(prompt.points, "point") if len(prompt.points) else np.zeros((0, turned.ndim))
    boxes = [_box_on_grid(box, turned, number) * step for number, box in enumerate(prompt.boxes, 1)]
    return replace(
        prompt,
        points=points,
        boxes=np.stack(boxes) if boxes else np.zeros((0, 2, turned.ndim)),
        scribbles=tuple((placed(line, "scribble"), value) for line, value in prompt.scribbles),
        mask=mask,
    )


def _index(places: Any, grid: Geometry) -> npt.NDArray[np.float64]:
    """Voxel indices (N, D) of places in mm (volumes) or px."""
    found = np.asarray(places, dtype=np.float64)
    if found.ndim != 2 or found.shape[1] != grid.ndim:
        raise UserError(
            f"a prompt's places have shape {found.shape} on an image of {grid.ndim} axes",
            "prompt",
            "three numbers in mm for volumes, two in px (row, column) for photographs",
        )
    return found if grid.ndim == 2 else grid.to_index(found)


def _require_inside(
    index: npt.NDArray[np.float64], places: npt.NDArray[np.float64], grid: Geometry, what: str
) -> None:
    outside = ((index < -HALF) | (index > np.asarray(grid.shape) - 1 + HALF)).any(axis=1)
    if outside.any():
        at = ", ".join(f"{v:g}" for v in np.round(places[outside][0], 2))
        raise UserError(
            f"a {what} of the prompt at ({at}) {_unit(grid)} lies outside the image, which spans {_span(grid)}",
            "prompt",
            "places are in patient mm (frame RAS or LPS) for volumes, row and column for photographs",
        )


def _box_on_grid(box: npt.NDArray[np.float64], grid: Geometry, number: int) -> npt.NDArray[np.float64]:
    """(2, D) in voxels: the first and the one after the last whose centre lies in the box."""
    corners = np.array(list(product(*np.asarray(box, dtype=np.float64).T)))
    index = _index(corners, grid)
    low = np.maximum(np.ceil(index.min(axis=0) - 1e-6), 0)
    high = np.minimum(np.ceil(index.max(axis=0) - 1e-6), grid.shape)
    if (high <= low).any():
        ends = [", ".join(f"{v:g}" for v in np.round(corner, 2)) for corner in box]
        raise UserError(
            f"box {number} of the prompt from ({ends[0]}) to ({ends[1]}) {_unit(grid)} has no voxel of the image, "
            f"which spans {_span(grid)}",
            "prompt",
            "low is the lowest corner and high the highest, in patient mm (volumes) or row, column (photographs)",
        )
    return np.stack([low, high])


def _unit(grid: Geometry) -> str:
    return "px" if grid.ndim == 2 else "mm"


def _span(grid: Geometry) -> str:
    """`-120..130, -90..160, 0..300 mm`: from edge to edge."""
    edges = np.array(list(product(*((-0.5, n - 0.5) for n in grid.shape))))
    world = edges if grid.ndim == 2 else grid.to_world(edges)
    ranges = zip(np.round(world.min(axis=0), 1), np.round(world.max(axis=0), 1))
    return ", ".join(f"{low:g}..{high:g}" for low, high in ranges) + f" {_unit(grid)}"


def _plain(name: str) -> str:
    return " ".join(sorted(name.lower().replace("_", " ").replace("-", " ").split()))
