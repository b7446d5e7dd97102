"""Where on a CT the air of the lungs is: components of air, told apart by what their cores hold and what is around."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.zoo.classical.airways import airways
from medseg.zoo.classical.morphology import Mask, components, dilated, distance_mm, eroded, extent

EMPTY_HU = -952.0
"""Air whose core lies below holds no tissue: around the patient, in airways and bowel. Even an overinflated lung's
core lies above."""
CORE_MM = 5.0
"""How deep inside a component its core begins, beyond the reach of partial volume."""
CROP_MM = 130.0
"""No adult chest is narrower, so a narrower image is a crop."""
ENCLOSED_SHARE = 0.6
"""Share of a component from which the body is met on three sides."""


@dataclass(frozen=True)
class Field:
    """The coarse view that all decisions are made on. hu: clipped HU, axes R, A, S. smooth: its 3x3x3 mean."""

    hu: npt.NDArray[np.float32]
    smooth: npt.NDArray[np.float32]
    spacing_mm: tuple[float, ...]
    threshold: float

    @property
    def voxel_ml(self) -> float:
        return float(np.prod(self.spacing_mm)) / 1000.0


def coarse_field(
    volume: npt.NDArray[Any], spacing_mm: Sequence[float], step: Sequence[int], threshold: float
) -> Field:
    """Every n-th voxel, clipped to -1024..400 HU (so that padding outside the field of view is air)."""
    from scipy import ndimage

    hu = np.clip(volume[tuple(slice(None, None, n) for n in step)], -1024, 400).astype(np.float32)
    coarse = tuple(float(s * n) for s, n in zip(spacing_mm, step, strict=True))
    width = tuple(3 if s < 4 else 1 for s in coarse)
    return Field(hu, ndimage.uniform_filter(hu, width, mode="nearest"), coarse, threshold)


@dataclass(frozen=True)
class Pieces:
    """Components of air and what tells them apart.

    labels: 0 and component numbers. ml: volumes. core_hu: mean HU deeper than CORE_MM (of all voxels where a
    component has no core). deep: share of voxels far darker than the threshold.
    """

    labels: npt.NDArray[Any]
    ml: npt.NDArray[np.float64]
    core_hu: npt.NDArray[np.float64]
    deep: npt.NDArray[np.float64]


def pieces_of(air: Mask, field: Field) -> Pieces:
    """The components of a mask of air with their measures; number 0 (no air) measures as nothing."""
    labels, count = components(air)
    flat = labels.ravel()

    def total(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        return np.bincount(flat, weights=values.ravel(), minlength=count + 1)

    sizes = np.bincount(flat, minlength=count + 1)
    depth = distance_mm(air, field.spacing_mm)
    core = air & (depth > CORE_MM)
    cores = total(core)
    whole = total(field.hu) / np.maximum(sizes, 1)
    core_hu = np.where(cores > 0, total(np.where(core, field.hu, 0)) / np.maximum(cores, 1), whole)
    deep = total(field.smooth < -600) / np.maximum(sizes, 1)
    ml = sizes * field.voxel_ml
    ml[0] = core_hu[0] = deep[0] = 0.0
    return Pieces(labels, ml, core_hu, deep)


def enclosed(field: Field) -> Mask:
    """Voxels from which the body is met in three of the four directions of the axial plane.

    Lungs are, even where a crop cuts them open on one side; air and foam around the patient are not.
    """
    labels, count = components(eroded(field.hu > -300, 3.0, field.spacing_mm))
    if count == 0:
        return np.zeros(field.hu.shape, dtype=bool)
    body = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    wide_mm, deep_mm = (n * s for n, s in zip(body.shape[:2], field.spacing_mm[:2], strict=True))
    cut = (wide_mm < CROP_MM) + 2 * (deep_mm < CROP_MM)  # directions that a narrow crop leaves no body in
    met = np.full(body.shape, cut, dtype=np.uint8)
    for axis in (0, 1):
        met += np.logical_or.accumulate(body, axis=axis)
        met += np.flip(np.logical_or.accumulate(np.flip(body, axis), axis=axis), axis)
    return met >= 3


def lung_air(field: Field) -> tuple[Mask, Mask, Mask]:
    """(air that is no lung, air of the lungs, trachea and main bronchi)."""
    air = field.hu < field.threshold
    pieces = pieces_of(air, field)
    within = enclosed(field)
    sizes = np.bincount(pieces.labels.ravel())
    share = np.bincount(pieces.labels.ravel(), weights=within.ravel()) / np.maximum(sizes, 1)
    empty = (pieces.core_hu < EMPTY_HU) | (share < ENCLOSED_SHARE)
    empty[0] = False
    outside = empty[pieces.labels]
    outside &= ~parenchyma(outside, within, field)
    inside = air & ~outside
    pipes = airways(field.hu, inside, outside, field.spacing_mm)
    return outside & ~pipes, lung_components(inside & ~pipes, field), pipes


def parenchyma(outside: Mask, within: Mask, field: Field) -> Mask:
    """Lung that hangs together with air outside, as where the edge of a round field of view cuts it open."""
    tissue = outside & (field.smooth > -930)
    labels, count = components(eroded(tissue, 4.0, field.spacing_mm))
    if count == 0:
        return np.zeros_like(outside)
    flat = labels.ravel()
    sizes = np.bincount(flat, minlength=count + 1)
    share = np.bincount(flat, weights=within.ravel(), minlength=count + 1) / np.maximum(sizes, 1)
    kept = (sizes * field.voxel_ml > 30) & (share > ENCLOSED_SHARE)
    kept[0] = False
    return outside & dilated(kept[labels], 6.0, field.spacing_mm) & (field.smooth > EMPTY_HU)


def lung_components(air: Mask, field: Field) -> Mask:
    """The components that are lungs: like parenchyma in HU, large, and at the height of the largest of them."""
    pieces = pieces_of(air, field)
    fits = (pieces.core_hu > EMPTY_HU) & (pieces.deep > 0.35) & (pieces.ml > 2.0)
    if not fits.any():
        return np.zeros_like(air)
    extents = {int(n): extent(pieces.labels == n, axis=2) for n in np.flatnonzero(fits)}
    first = leading(pieces, extents)
    low, high = extents[first]
    kept = []
    for label, ends in extents.items():
        overlap = min(high, ends[1]) - max(low, ends[0]) + 1
        if pieces.ml[label] >= 0.02 * pieces.ml[first] and overlap >= 0.5 * (ends[1] - ends[0] + 1):
            kept.append(label)
    return np.isin(pieces.labels, kept)


def leading(pieces: Pieces, extents: Mapping[int, tuple[int, int]]) -> int:
    """The largest component; where others reach the top of the scan and lie higher, the largest of those.

    Bases of lungs at the top of an abdominal scan may be smaller than stool and gas in the bowel below.
    """
    largest = max(extents, key=lambda n: pieces.ml[n])
    top = pieces.labels.shape[2] - 1
    reaching = [
        n for n, ends in extents.items() if ends[1] == top and pieces.ml[n] > 0.05 * pieces.ml[largest]
    ]
    if not reaching:
        return largest
    best = max(reaching, key=lambda n: pieces.ml[n])
    return best if sum(extents[best]) > sum(extents[largest]) else largest
